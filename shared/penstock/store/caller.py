"""Batched calls of a service's function in Valkey. The commands are opaque here; penstock.machine defines them.

The commands of one event-loop tick to the same partition are sent as one FCALL, the FCALLs of all partitions as one
pipeline. While UNDER_WAY pipelines are unanswered, further commands gather, so batches grow with the load.
"""

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import msgspec

from penstock.errors import PenstockError
from penstock.store import library
from penstock.store.link import Link, unavailable
from penstock.store.wire import ReplyError, Wire

log = logging.getLogger(__name__)

OnHints = Callable[[int, dict[str, Any]], None]
Observer = Callable[[int, int, float], None]
"""Called after every FCALL with its partition, number of commands and seconds."""

UNDER_WAY: Final = 2
"""The most pipelines under way: Valkey works on one while the other travels. More would make smaller batches."""
MOST: Final = 64
"""The most weight of one FCALL, so that it blocks Valkey for 1 or 2 ms. A command of that weight or more goes alone."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class _Command(msgspec.Struct, gc=False):
    packed: bytes
    weight: int
    answer: "asyncio.Future[bytes]"


class _Pipeline(msgspec.Struct, gc=False):
    """The FCALLs written together. The pipeline is over when each of them (`left`) is answered."""

    left: int
    timer: asyncio.TimerHandle
    first: bool
    """True unless the commands are sent again after the library was missing: that is done only once."""


class Store:
    """One service's calls of its own function, `penstock_<service>`."""

    def __init__(
        self,
        url: str,
        *,
        service: str,
        root: str = "penstock",
        limits: dict[str, int] | None = None,
        on_hints: OnHints | None = None,
        observer: Observer | None = None,
        skew: Callable[[], int] | None = None,
        timeout: float = 15.0,
        dev: bool = False,
    ) -> None:
        self.root = root
        self._function = f"penstock_{service.replace('-', '_')}"
        self._limits = limits or {}
        self._on_hints = on_hints
        self._observer = observer
        self._skew = skew or (lambda: 0)
        self._timeout = timeout
        self._dev = dev
        self._pending: dict[int, list[_Command]] = {}
        self._scheduled = False
        self._under_way = 0
        self._link = Link(url)
        self._tasks: set[asyncio.Task[None]] = set()
        self._nonce = os.urandom(6).hex()
        self._calls = itertools.count(1)
        self._loop = asyncio.get_running_loop()

    async def ensure_library(self) -> None:
        """Load the library if the server's is older or missing (a failover may lose it)."""
        await library.ensure(self.execute, dev=self._dev)

    async def execute(self, *command: Any) -> Any:
        """Run one plain Valkey command, outside the batches (for diagnostics and secrets).

        Raise PenstockError("valkey_unavailable").
        """
        try:
            async with asyncio.timeout(self._timeout):
                wire = await self._link.open()
                return await wire.ask(*command)
        except (OSError, TimeoutError, ReplyError) as error:
            raise unavailable(error) from None

    async def close(self) -> None:
        """Wait for the calls under way, at most `timeout` seconds, and disconnect."""
        deadline = self._loop.time() + self._timeout
        while self._under_way or self._pending or self._tasks:
            if self._loop.time() > deadline:
                break
            await asyncio.sleep(0.005)
        self._link.close()

    def disconnect(self) -> None:
        """Disconnect at once."""
        self._link.close()

    # -- calls ------------------------------------------------------------------------------------

    def submit(self, partition: int, command: bytes, weight: int) -> "asyncio.Future[bytes]":
        """Queue a packed command of this weight. Return a future of its packed reply, which may be an error's.

        The future fails with PenstockError("valkey_unavailable") if no reply comes.
        """
        answer: asyncio.Future[bytes] = self._loop.create_future()
        queue = self._pending.get(partition)
        if queue is None:
            queue = self._pending[partition] = []
        queue.append(_Command(command, weight, answer))
        if not self._scheduled and self._under_way < UNDER_WAY:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)
        return answer

    # -- pipelines --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Send the commands that have gathered, after connecting if need be."""
        self._scheduled = False
        if not self._pending or self._under_way >= UNDER_WAY:
            return
        pending, self._pending = self._pending, {}
        if self._link.wire is None:
            self._spawn(self._reconnect(pending))
            return
        self._send(self._link.wire, pending, first=True)

    def _send(self, wire: Wire, pending: dict[int, list[_Command]], *, first: bool) -> None:
        batches = [
            (partition, batch) for partition, commands in pending.items() for batch in _batches(commands)
        ]
        # A dead peer is detected by its silence: closing the wire fails all calls that still wait for a reply.
        pipeline = _Pipeline(len(batches), self._loop.call_later(self._timeout, wire.close), first)
        self._under_way += 1
        calls = [
            wire.send(self._fcall(partition, commands), self._receiver(pipeline, partition, commands))
            for partition, commands in batches
        ]
        wire.write(b"".join(calls))

    def _receiver(
        self, pipeline: _Pipeline, partition: int, commands: list[_Command]
    ) -> Callable[[Any], None]:
        started = time.perf_counter()

        def receive(reply: Any) -> None:
            pipeline.left -= 1
            if not pipeline.left:
                pipeline.timer.cancel()
                self._under_way -= 1
                if self._pending and not self._scheduled:
                    self._scheduled = True
                    self._loop.call_soon(self._dispatch)
            if isinstance(reply, list):
                self._link.answered()
                self._answer(partition, commands, cast("list[bytes]", reply))
                if self._observer:
                    self._observer(partition, len(commands), time.perf_counter() - started)
            elif pipeline.first and isinstance(reply, ReplyError) and "Function not found" in str(reply):
                self._spawn(self._reload({partition: commands}))
            else:
                self._refuse({partition: commands}, reply)

        return receive

    def _fcall(self, partition: int, commands: list[_Command]) -> tuple[Any, ...]:
        header = _encode(
            {
                "skew": self._skew(),
                "nonce": f"{self._nonce}{next(self._calls):x}",
                "secret": os.urandom(16).hex(),
                "random": random.random(),
                "limits": self._limits,
            }
        )
        root = f"{self.root}:{{{partition}}}"
        return ("FCALL", self._function, 1, root, header, *(command.packed for command in commands))

    def _answer(self, partition: int, commands: list[_Command], replies: list[bytes]) -> None:
        for command, reply in zip(commands, replies[1:], strict=True):
            if not command.answer.done():
                command.answer.set_result(reply)
        if not replies[0]:
            return
        hints = cast("dict[str, Any]", _decode(replies[0]))
        for fault in hints.get("faults", ()):
            log.error("the state machine failed: %s", fault)
        if self._on_hints:
            try:
                self._on_hints(partition, hints)
            except Exception:
                log.exception("the hints of a call could not be passed on")

    def _refuse(self, pending: dict[int, list[_Command]], error: Any) -> None:
        """Fail all commands of calls that failed as a whole: connection lost, or server full, loading or a replica."""
        if isinstance(error, ReplyError):
            self._link.refused(error)
        failure = unavailable(error)
        for commands in pending.values():
            for command in commands:
                if not command.answer.done():
                    command.answer.set_exception(failure)

    async def _reconnect(self, pending: dict[int, list[_Command]]) -> None:
        try:
            wire = await self._link.open()
        except (OSError, TimeoutError, ReplyError) as error:
            self._refuse(pending, error)
            return
        self._send(wire, pending, first=True)

    async def _reload(self, pending: dict[int, list[_Command]]) -> None:
        """Load the library, which is missing (after a failover or flush), and send the commands once more."""
        try:
            await self.ensure_library()
            wire = await self._link.open()
        except (OSError, TimeoutError, ReplyError, PenstockError, library.LibraryError) as error:
            self._refuse(pending, error)
            return
        self._send(wire, pending, first=False)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _batches(commands: list[_Command]) -> Iterator[list[_Command]]:
    """Split the commands, in their order, into FCALLs of at most MOST weight."""
    first = cost = 0
    for at, command in enumerate(commands):
        if cost and cost + command.weight > MOST:
            yield commands[first:at]
            first, cost = at, 0
        cost += command.weight
    yield commands[first:]
