"""The calls to one Valkey server. Those of one event-loop tick to the same partition are one FCALL, the FCALLs of all
partitions one pipeline.

While UNDER_WAY pipelines are unanswered, further commands gather, so batches grow with the load.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, cast

import msgspec

from penstock.store.acknowledged import Acknowledged
from penstock.store.link import LATE_S, Explained, Link
from penstock.store.wire import ReplyError, Wire

UNDER_WAY: Final = 2
"""The most pipelines under way: Valkey works on one while the other travels. More would make smaller batches."""
MOST: Final = 100
"""The most weight of one FCALL, so that it blocks Valkey for 1 or 2 ms. A command of that weight or more goes alone."""


class Command(msgspec.Struct, gc=False):
    packed: bytes
    weight: int
    answer: "asyncio.Future[bytes]"


class Batch(msgspec.Struct, gc=False):
    """The commands of one FCALL."""

    partition: int
    commands: list[Command]
    again: bool
    """True if the commands are sent again because the library was missing: that is done only once."""
    started: float


class Unsafe(msgspec.Struct, gc=False):
    """The replies of a call that was run, but that is not acknowledged (store/acknowledged.py)."""

    replies: list[bytes]
    why: Exception


class Owner(Protocol):
    """What a node needs of the store that it belongs to."""

    def frame(self, partition: int, commands: list[Command]) -> tuple[Any, ...]:
        """Return the FCALL of these commands."""
        ...

    def settle(self, node: "Node", batch: Batch, reply: Any) -> None:
        """Take the reply to a batch: a list, `Unsafe`, a ReplyError, or a ConnectionError if the outcome is unknown."""
        ...

    def unreachable(self, node: "Node", pending: dict[int, list[Command]], error: Exception) -> None:
        """Take back commands that were not sent, because the server cannot be reached."""
        ...

    def late(self, node: "Node") -> None:
        """Note that a pipeline is late."""
        ...


class _Pipeline(msgspec.Struct, gc=False):
    """The FCALLs written together. The pipeline is over when each of them, and the wait, is answered (`left`)."""

    left: int
    held: list[tuple[Batch, list[bytes]]]
    """Answered calls that are not acknowledged yet."""


class Node:
    """One server: its connection, and the commands that wait for it."""

    def __init__(
        self, url: str, owner: Owner, acknowledged: Acknowledged, *, late_s: float, timeout: float
    ) -> None:
        self.url = url
        self.link = Link(url)
        self._owner = owner
        self._acknowledged = acknowledged
        self._late_s = late_s
        self._timeout = timeout
        self._pending: dict[int, list[Command]] = {}
        self._scheduled = False
        self._under_way = 0
        self._heard_at = 0.0
        """When anything was last answered, by the loop's clock."""
        self._asked_at = 0.0
        """When the first of the pipelines under way was sent, by the loop's clock."""
        self._connecting: set[asyncio.Task[None]] = set()
        self._watch: asyncio.TimerHandle | None = None
        """The timer that looks for silence, while calls are under way and a little longer."""
        self._left = False
        self._loop = asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        """Whether commands wait to be sent or answered."""
        return bool(self._under_way or self._pending or self._connecting)

    def heard_s(self) -> float:
        """See `Store.heard_s`."""
        now, answered_at = self._loop.time(), self.link.answered_at
        late = self._under_way and now - max(answered_at, self._asked_at) > LATE_S
        return math.inf if late or self.link.wire is None else now - answered_at

    def add(self, partition: int, command: Command) -> None:
        """Queue a command, to be sent with the others of this tick."""
        queue = self._pending.get(partition)
        if queue is None:
            queue = self._pending[partition] = []
        queue.append(command)
        if not self._scheduled and self._under_way < UNDER_WAY:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def leave(self) -> None:
        """Disconnect for good. Calls under way fail, and commands that were not sent go back to the store."""
        self._left = True
        if self._watch is not None:
            self._watch.cancel()
        pending, self._pending = self._pending, {}
        self.link.close()
        if pending:
            self._owner.unreachable(self, pending, _left())

    def send_again(self, wire: Wire, batch: Batch) -> None:
        """Send the commands of a batch that was not run because the library was missing."""
        self._send(wire, {batch.partition: batch.commands}, again=True)

    def _dispatch(self) -> None:
        """Send the commands that have gathered, after connecting if need be."""
        self._scheduled = False
        if not self._pending or self._under_way >= UNDER_WAY:
            return
        pending, self._pending = self._pending, {}
        if self.link.wire is None:
            task = self._loop.create_task(self._connect(pending))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
            return
        self._send(self.link.wire, pending)

    async def _connect(self, pending: dict[int, list[Command]]) -> None:
        try:
            wire = await self.link.open()
        except (OSError, TimeoutError, ReplyError) as error:
            self._owner.unreachable(self, pending, error)
            return
        if self._left:
            self.link.close()
            self._owner.unreachable(self, pending, _left())
            return
        self._send(wire, pending)

    def _send(self, wire: Wire, pending: dict[int, list[Command]], *, again: bool = False) -> None:
        started = time.perf_counter()
        batches = [
            Batch(partition, batch, again, started)
            for partition, commands in pending.items()
            for batch in _batches(commands)
        ]
        wait = self._acknowledged.wait
        pipeline = _Pipeline(len(batches) + (wait is not None), [])
        if not self._under_way:
            self._asked_at = self._loop.time()
        self._under_way += 1
        if self._watch is None:
            self._watch = self._loop.call_later(self._late_s, self._look)
        receiver = self._receiver if wait is None else self._holding_receiver
        calls = [
            wire.send(self._owner.frame(batch.partition, batch.commands), receiver(pipeline, batch))
            for batch in batches
        ]
        if wait is not None:
            calls.append(wire.send(wait, self._waited(pipeline)))
        wire.write(b"".join(calls))

    def _receiver(self, pipeline: _Pipeline, batch: Batch) -> Callable[[Any], None]:
        def receive(reply: Any) -> None:
            self._count(pipeline)
            self._owner.settle(self, batch, reply)

        return receive

    def _holding_receiver(self, pipeline: _Pipeline, batch: Batch) -> Callable[[Any], None]:
        def receive(reply: Any) -> None:
            self._count(pipeline)
            if isinstance(reply, list):
                pipeline.held.append((batch, cast("list[bytes]", reply)))
            else:
                self._owner.settle(self, batch, reply)

        return receive

    def _waited(self, pipeline: _Pipeline) -> Callable[[Any], None]:
        def receive(reply: Any) -> None:
            self._count(pipeline)
            why = self._acknowledged.refusal(reply)
            for batch, replies in pipeline.held:
                self._owner.settle(self, batch, replies if why is None else Unsafe(replies, why))

        return receive

    def _count(self, pipeline: _Pipeline) -> None:
        """Count one reply of a pipeline. After its last one, there is room for another pipeline."""
        self._heard_at = self._loop.time()
        pipeline.left -= 1
        if not pipeline.left:
            self._under_way -= 1
            if self._pending and not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._dispatch)

    def _look(self) -> None:
        """A dead peer is detected by its silence: closing the link fails all calls that still wait for a reply. A peer
        that answers slowly is left alone, however long a whole pipeline takes. One timer watches all pipelines, since
        to set and cancel one for each is work that an idle round trip waits for.
        """
        self._watch = None
        if not self._under_way:
            return  # nothing ticks while nothing is asked
        silent_s = self._loop.time() - max(self._heard_at, self._asked_at)
        if silent_s >= self._timeout:
            self.link.close()
            return
        if silent_s >= self._late_s:
            self._owner.late(self)
            again_s = min(self._late_s, self._timeout - silent_s)
        else:
            again_s = self._late_s - silent_s
        self._watch = self._loop.call_later(max(0.01, again_s), self._look)


def _left() -> ConnectionError:
    return Explained("the server that had the partition was replaced")


def _batches(commands: list[Command]) -> Iterator[list[Command]]:
    """Split the commands, in their order, into FCALLs of at most MOST weight."""
    first = cost = 0
    for at, command in enumerate(commands):
        if cost and cost + command.weight > MOST:
            yield commands[first:at]
            first, cost = at, 0
        cost += command.weight
    yield commands[first:]
