"""Calls of a service's function in Valkey, coalesced. What the commands mean, penstock.machine knows.

All commands of one event-loop tick to the same partition leave as one FCALL (a batch of commands), all partitions as
one pipeline; while enough are under way the next batch gathers, so batches grow with the load.
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
"""Told of every FCALL: partition, commands, seconds."""

UNDER_WAY: Final = 2
"""Pipelines under way: one that Valkey works on while the other travels. More would make smaller batches."""
MOST: Final = 64
"""The weight of one FCALL, so that it holds Valkey for a millisecond or two. What weighs as much goes alone."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class _Command(msgspec.Struct, gc=False):
    packed: bytes
    weight: int
    answer: "asyncio.Future[bytes]"


class _Pipeline(msgspec.Struct, gc=False):
    """What left together: it is over when each of its calls is answered."""

    left: int
    timer: asyncio.TimerHandle
    first: bool
    """Not yet sent again because the library was gone."""


class Store:
    """One service's way to its own function, `penstock_<service>`."""

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
        """Loads the library if the server's is older or gone (a failover may lose it)."""
        await library.ensure(self.execute, dev=self._dev)

    async def execute(self, *command: Any) -> Any:
        """One plain Valkey command, apart from the batches (diagnostics, secrets).

        Raises PenstockError("valkey_unavailable").
        """
        try:
            async with asyncio.timeout(self._timeout):
                wire = await self._link.open()
                return await wire.ask(*command)
        except (OSError, TimeoutError, ReplyError) as error:
            raise unavailable(error) from None

    async def close(self) -> None:
        """Waits for what is under way and disconnects."""
        deadline = self._loop.time() + self._timeout
        while self._under_way or self._pending or self._tasks:
            if self._loop.time() > deadline:
                break
            await asyncio.sleep(0.005)
        self._link.close()

    def disconnect(self) -> None:
        """Disconnects at once."""
        self._link.close()

    # -- calls ------------------------------------------------------------------------------------

    def submit(self, partition: int, command: bytes, weight: int) -> "asyncio.Future[bytes]":
        """Queues a packed command that costs so much; the future gives its packed reply, an error's included.

        It fails with PenstockError("valkey_unavailable") where there is none.
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
        """What has gathered leaves; without a connection, it waits for one."""
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
        # A dead peer is noticed by its silence; closing fails whatever still waits.
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
        """Whole calls failed: the connection broke, or the server is full, loading, a replica."""
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
        """The library is gone (a failover, a flush): load it and try once more."""
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
    """The commands in their order, as many to an FCALL as it may cost."""
    first = cost = 0
    for at, command in enumerate(commands):
        if cost and cost + command.weight > MOST:
            yield commands[first:at]
            first, cost = at, 0
        cost += command.weight
    yield commands[first:]
