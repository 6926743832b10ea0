"""Calls into the state machine, coalesced.

`await store.call(partition, op, args)` looks like one call. All calls of one event-loop tick to the same
partition leave as one FCALL (a batch of commands), all partitions as one pipeline; while both connections
are busy the next batch gathers, so batches grow with the load.
"""

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Self, TypeVar, cast

import msgspec
from redis import exceptions as redis_errors
from redis.asyncio.connection import Connection, parse_url

from penstock.errors import PenstockError, make
from penstock.store import library

log = logging.getLogger(__name__)

T = TypeVar("T")
Args = msgspec.Struct | dict[str, Any]
OnHints = Callable[[int, dict[str, Any]], None]
Observer = Callable[[int, int, float], None]
"""Told of every FCALL: partition, commands, seconds."""

MAX_COMMANDS: Final = 128
"""Commands in one FCALL, so that no call holds Valkey for more than about 2 ms."""
CONNECTIONS: Final = 2
_ERROR: Final = b"\x81\xa5error"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_AWAY: Final = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError, asyncio.TimeoutError)


class _Pending(msgspec.Struct, gc=False):
    command: bytes
    future: "asyncio.Future[bytes]"


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
        self._root = root
        self._function = f"penstock_{service.replace('-', '_')}"
        self._limits = limits or {}
        self._on_hints = on_hints
        self._observer = observer
        self._skew = skew or (lambda: 0)
        self._timeout = timeout
        self._dev = dev
        self._prefixes: dict[str, bytes] = {}
        self._pending: dict[int, list[_Pending]] = {}
        self._scheduled = False
        options = {**parse_url(url), "protocol": 2, "socket_connect_timeout": 2.0, "retry": None}
        connection_class = cast("type[Connection]", options.pop("connection_class", Connection))
        self._idle = [connection_class(**options) for _ in range(CONNECTIONS)]
        # Plain commands have a connection of their own, so that they never stand in front of batches.
        self._plain = connection_class(**options)
        self._plain_free = asyncio.Lock()
        self._all = [*self._idle, self._plain]
        self._tasks: set[asyncio.Task[None]] = set()
        self._nonce = os.urandom(6).hex()
        self._calls = itertools.count(1)
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, url: str, **options: Any) -> Self:
        """Connects and loads the library.

        Raises PenstockError("valkey_unavailable"), or LibraryError for another build of the same version.
        """
        store = cls(url, **options)
        await store.ensure_library()
        return store

    async def ensure_library(self) -> None:
        """Loads the library if the server's is older or gone (a failover may lose it)."""
        await self._with_connection(self._load)

    async def ping(self) -> None:
        """Raises PenstockError("valkey_unavailable") unless Valkey answers."""

        async def ping(connection: Connection) -> None:
            await self._execute(connection, "PING")

        await self._with_connection(ping)

    async def execute(self, *command: Any) -> Any:
        """One plain Valkey command, apart from the batches (diagnostics, secrets)."""

        async def run(connection: Connection) -> Any:
            return await self._execute(connection, *command)

        return await self._with_connection(run)

    async def close(self) -> None:
        """Waits for what is under way and disconnects."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for connection in self._all:
            await connection.disconnect(nowait=True)

    # -- calls ------------------------------------------------------------------------------------

    def submit(self, partition: int, op: str, args: Args) -> "asyncio.Future[bytes]":
        """Queues a command; the future gives its packed reply, an error's included."""
        prefix = self._prefixes.get(op)
        if prefix is None:
            prefix = self._prefixes[op] = b"\x92" + _encode(op)
        future: asyncio.Future[bytes] = self._loop.create_future()
        queue = self._pending.get(partition)
        if queue is None:
            queue = self._pending[partition] = []
        queue.append(_Pending(prefix + _encode(args), future))
        if not self._scheduled and self._idle:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)
        return future

    async def call_raw(self, partition: int, op: str, args: Args) -> bytes:
        """One command's reply, still packed. Raises PenstockError."""
        reply = await self.submit(partition, op, args)
        if reply.startswith(_ERROR):
            raise _error_of(reply)
        return reply

    async def call(self, partition: int, op: str, args: Args) -> dict[str, Any]:
        """One command. Raises PenstockError: a refusal of the state machine, or `valkey_unavailable`."""
        return cast("dict[str, Any]", _decode(await self.call_raw(partition, op, args)))

    async def call_many(self, calls: Sequence[tuple[int, str, Args]]) -> list[dict[str, Any] | PenstockError]:
        """Many commands at once, answered in their order, failures among the answers."""
        futures = [self.submit(*call) for call in calls]
        answers: list[dict[str, Any] | PenstockError] = []
        for future in futures:
            try:
                reply = await future
            except PenstockError as error:
                answers.append(error)
                continue
            answers.append(_error_of(reply) if reply.startswith(_ERROR) else _decode(reply))
        return answers

    # -- batches ----------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        self._scheduled = False
        if not self._pending or not self._idle:
            return
        batch: list[tuple[int, list[_Pending]]] = []
        pending, self._pending = self._pending, {}
        for partition, commands in pending.items():
            for start in range(0, len(commands), MAX_COMMANDS):
                batch.append((partition, commands[start : start + MAX_COMMANDS]))
        task = self._loop.create_task(self._run(self._idle.pop(), batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: Connection, batch: list[tuple[int, list[_Pending]]]) -> None:
        try:
            await self._roundtrip(connection, batch, first=True)
        except _AWAY as error:
            await connection.disconnect(nowait=True)
            self._fail(batch, make("valkey_unavailable", f"Valkey is away: {type(error).__name__}"))
        except Exception:
            log.exception("a call into Valkey failed")
            await connection.disconnect(nowait=True)
            self._fail(batch, make("internal"))
        finally:
            self._idle.append(connection)
            if self._pending:
                self._dispatch()

    async def _roundtrip(
        self, connection: Connection, batch: list[tuple[int, list[_Pending]]], *, first: bool
    ) -> None:
        started = time.perf_counter()
        # One connect, one write, one read each; a time limit over all, so that a dead peer is noticed.
        async with asyncio.timeout(self._timeout):
            await connection.connect()
            await connection.send_packed_command(
                connection.pack_commands([self._fcall(partition, commands) for partition, commands in batch]),
                check_health=False,
            )
            lost: list[tuple[int, list[_Pending]]] = []
            for partition, commands in batch:
                try:
                    replies = await connection.read_response(disable_decoding=True)
                except redis_errors.ResponseError as error:
                    if first and "Function not found" in str(error):
                        lost.append((partition, commands))
                    else:
                        self._refused(commands, error)
                    continue
                self._answer(partition, commands, cast("list[bytes]", replies))
                if self._observer:
                    self._observer(partition, len(commands), time.perf_counter() - started)
            if lost:
                await self._load(connection)
                await self._roundtrip(connection, lost, first=False)

    def _fcall(self, partition: int, commands: list[_Pending]) -> tuple[Any, ...]:
        header = _encode(
            {
                "skew": self._skew(),
                "nonce": f"{self._nonce}{next(self._calls):x}",
                "random": random.random(),
                "limits": self._limits,
            }
        )
        return (
            "FCALL",
            self._function,
            1,
            f"{self._root}:{{{partition}}}",
            header,
            *(pending.command for pending in commands),
        )

    def _answer(self, partition: int, commands: list[_Pending], replies: list[bytes]) -> None:
        for pending, reply in zip(commands, replies[1:], strict=True):
            if not pending.future.done():
                pending.future.set_result(reply)
        if replies[0] and self._on_hints:
            self._on_hints(partition, _decode(replies[0]))

    def _refused(self, commands: list[_Pending], error: redis_errors.ResponseError) -> None:
        """The server refused a whole call: out of memory, loading, a replica, no permission."""
        text = str(error)
        log.error("Valkey refused a call: %s", text)
        self._fail([(0, commands)], make("valkey_unavailable", f"Valkey refused the call: {text[:200]}"))

    @staticmethod
    def _fail(batch: list[tuple[int, list[_Pending]]], error: PenstockError) -> None:
        for _, commands in batch:
            for pending in commands:
                if not pending.future.done():
                    pending.future.set_exception(error)

    # -- plain commands ---------------------------------------------------------------------------

    async def _with_connection(self, use: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        async with self._plain_free:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._plain.connect()
                    return await use(self._plain)
            except _AWAY as error:
                await self._plain.disconnect(nowait=True)
                raise make("valkey_unavailable", f"Valkey is away: {type(error).__name__}") from None

    async def _load(self, connection: Connection) -> None:
        async def execute(*command: Any) -> Any:
            return await self._execute(connection, *command)

        await library.ensure(execute, dev=self._dev)

    @staticmethod
    async def _execute(connection: Connection, *command: Any) -> Any:
        await connection.send_command(*command)
        return await connection.read_response(disable_decoding=True)


def _error_of(reply: bytes) -> PenstockError:
    body = cast("dict[str, Any]", _decode(reply)["error"])
    if body["code"] == "internal":
        log.error("the state machine failed: %s", body.get("message"))
        return make("internal")
    detail = body.get("detail")
    error = make(body["code"], body.get("message"), detail=detail if isinstance(detail, dict) else None)
    if "retry_after_ms" in error.detail:
        error.retry_after_ms = error.detail["retry_after_ms"]
    return error
