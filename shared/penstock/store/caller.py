"""Calls into the state machine, coalesced.

`await store.call(partition, op, args)` looks like one call. All calls of one event-loop tick to the same
partition leave as one FCALL (a batch of commands), all partitions as one pipeline; while enough are under way
the next batch gathers, so batches grow with the load.
"""

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Self, cast

import msgspec

from penstock.clock import ValkeyClock
from penstock.errors import PenstockError, make
from penstock.ids import Uuid7
from penstock.store import library
from penstock.store.link import Link, unavailable
from penstock.store.weights import MOST, weight
from penstock.store.wire import ReplyError, Wire

log = logging.getLogger(__name__)

Args = msgspec.Struct | dict[str, Any]
OnHints = Callable[[int, dict[str, Any]], None]
Observer = Callable[[int, int, float], None]
"""Told of every FCALL: partition, commands, seconds."""

UNDER_WAY: Final = 2
"""Pipelines under way: one that Valkey works on while the other travels. More would make smaller batches."""
_ERROR: Final = b"\x81\xa5error"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class DeploymentError(Exception):
    """The settings do not fit the deployment that is there; the message says what to do."""


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
        partitions: int = 1,
        limits: dict[str, int] | None = None,
        on_hints: OnHints | None = None,
        observer: Observer | None = None,
        skew: Callable[[], int] | None = None,
        timeout: float = 15.0,
        dev: bool = False,
    ) -> None:
        self.partitions = partitions
        self.clock = ValkeyClock()
        self._ids = Uuid7()
        self._root = root
        self._function = f"penstock_{service.replace('-', '_')}"
        self._limits = limits or {}
        self._on_hints = on_hints
        self._observer = observer
        self._skew = skew or (lambda: 0)
        self._timeout = timeout
        self._dev = dev
        self._prefixes: dict[str, bytes] = {}
        self._pending: dict[int, list[_Command]] = {}
        self._scheduled = False
        self._under_way = 0
        self._link = Link(url)
        self._tasks: set[asyncio.Task[None]] = set()
        self._nonce = os.urandom(6).hex()
        self._calls = itertools.count(1)
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, url: str, **options: Any) -> Self:
        """Connects and loads the library.

        Raises PenstockError("valkey_unavailable"), LibraryError for another build of the same version, or
        DeploymentError when the deployment was started with another number of partitions.
        """
        store = cls(url, **options)
        try:
            await store.ensure_library()
            await store.ensure_partitions()
        except BaseException:
            store._link.close()
            raise
        return store

    async def ensure_partitions(self) -> None:
        """Fixes the number of partitions for good at a deployment's first start; another number is refused.

        An id, an idempotency key and a concurrency key name the partition that keeps their books: with another
        number of partitions they would lead elsewhere.
        """
        kept = (await self._timed("deployment", {"partitions": self.partitions}))["partitions"]
        if kept != self.partitions:
            raise DeploymentError(
                f"the deployment under the root {self._root!r} was started with {kept} partitions and keeps them: "
                f"set PENSTOCK_PARTITIONS={kept} (it is {self.partitions}), or take another root"
            )

    async def ensure_library(self) -> None:
        """Loads the library if the server's is older or gone (a failover may lose it)."""
        await library.ensure(self.execute, dev=self._dev)

    async def ping(self) -> None:
        """Raises PenstockError("valkey_unavailable") unless Valkey runs this service's function."""
        await self._timed("ping", {})

    async def _timed(self, op: str, args: Args) -> dict[str, Any]:
        """An op that answers with Valkey's `now`, which `clock` learns."""
        sent = time.monotonic()
        reply = await self.call(0, op, args)
        self.clock.learn(reply["now"], sent, time.monotonic())
        return reply

    def new_id(self, partition: int) -> str:
        """A new id in this partition. Lists sort by ids, so their time is Valkey's, not this machine's."""
        return f"{partition}-{self._ids.make(int(self.clock.now()))}"

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

    # -- calls ------------------------------------------------------------------------------------

    def submit(self, partition: int, op: str, args: Args) -> "asyncio.Future[bytes]":
        """Queues a command; the future gives its packed reply, an error's included."""
        prefix = self._prefixes.get(op)
        if prefix is None:
            prefix = self._prefixes[op] = b"\x92" + _encode(op)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        queue = self._pending.get(partition)
        if queue is None:
            queue = self._pending[partition] = []
        queue.append(_Command(prefix + _encode(args), weight(op, args), answer))
        if not self._scheduled and self._under_way < UNDER_WAY:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)
        return answer

    async def call_raw(self, partition: int, op: str, args: Args) -> bytes:
        """One command's reply, still packed. Raises PenstockError."""
        reply = await self.submit(partition, op, args)
        if reply.startswith(_ERROR):
            raise _error_of(reply)
        return reply

    async def call(self, partition: int, op: str, args: Args) -> dict[str, Any]:
        """One command. Raises PenstockError: a refusal of the state machine, or `valkey_unavailable`."""
        return cast("dict[str, Any]", _decode(await self.call_raw(partition, op, args)))

    def call_many(
        self, calls: Sequence[tuple[int, str, Args]]
    ) -> Coroutine[Any, Any, list[dict[str, Any] | PenstockError]]:
        """Many commands at once, answered in their order, failures among the answers.

        They are on their way when this returns: what is called next comes behind them.
        """
        return self._answers([self.submit(*call) for call in calls])

    async def _answers(
        self, futures: "Sequence[asyncio.Future[bytes]]"
    ) -> list[dict[str, Any] | PenstockError]:
        answers: list[dict[str, Any] | PenstockError] = []
        for future in futures:
            try:
                reply = await future
            except PenstockError as error:
                answers.append(error)
                continue
            answers.append(_error_of(reply) if reply.startswith(_ERROR) else _decode(reply))
        return answers

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
        root = f"{self._root}:{{{partition}}}"
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


def _error_of(reply: bytes) -> PenstockError:
    body = cast("dict[str, Any]", _decode(reply)["error"])
    if body["code"] == "internal":
        log.error("the state machine failed: %s", body.get("message"))
        return make("internal")
    # An empty Lua table arrives as an array.
    error = make(body["code"], body.get("message"), detail=body.get("detail") or None)
    if "retry_after_ms" in error.detail:
        error.retry_after_ms = error.detail["retry_after_ms"]
    return error
