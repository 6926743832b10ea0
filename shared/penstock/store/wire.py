"""One pipelined connection to Valkey: writes commands, and calls back with their replies in order.

redis-py's own connection reads each reply through a stream, a timeout and a coroutine, which costs more than Valkey's
work on the request. An asyncio protocol that feeds hiredis' parser directly halves the round trip.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Self, cast

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

OnReply = Callable[[Any], None]
"""Called with a reply: bytes, int, list, None or a ReplyError; or with a ConnectionError if none can come."""
ReplyError = hiredis.ReplyError
_pack: Final = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]
CONNECT_S: Final = 3.0


class Wire(asyncio.Protocol):
    """One connection, from `connect` to its end; `on_lost` is called once, at the end.

    An ended connection is never reopened: `lost` says why it ended, and commands written later fail with that
    error.
    """

    def __init__(self, on_lost: Callable[["Wire", Exception], None]) -> None:
        self._on_lost = on_lost
        self._reader: Any = hiredis.Reader()
        self._waiting: deque[OnReply] = deque()
        self._transport: asyncio.Transport | None = None
        self.lost: ConnectionError | None = None
        """Why the connection has ended; None while it is open."""

    @classmethod
    async def connect(cls, url: str, on_lost: Callable[["Wire", Exception], None]) -> Self:
        """Connect, authenticate and select the database as the URL (redis://, rediss://, unix://) says.

        Raise OSError, TimeoutError, or ReplyError when the server refuses.
        """
        options = cast("dict[str, Any]", parse_url(url))
        wire = cls(on_lost)
        try:
            async with asyncio.timeout(CONNECT_S):
                await wire._dial(options)
                if options.get("password") is not None:
                    user = [options["username"]] if options.get("username") else []
                    await wire.ask("AUTH", *user, options["password"])
                if options.get("db"):
                    await wire.ask("SELECT", options["db"])
        except BaseException:
            wire.close()  # the caller never gets this wire, so nobody else could close it
            raise
        return wire

    async def _dial(self, options: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        kind = options.get("connection_class")
        if kind is UnixDomainSocketConnection:
            await loop.create_unix_connection(lambda: self, options["path"])
            return
        tls: Any = None
        if kind is SSLConnection:
            settings: dict[str, Any] = {k: v for k, v in options.items() if k.startswith("ssl_")}
            tls = cast("Any", SSLConnection(**settings).ssl_context).get()
        await loop.create_connection(
            lambda: self, options.get("host", "localhost"), options.get("port", 6379), ssl=tls
        )

    @property
    def waiting(self) -> int:
        """The number of replies that are still to come."""
        return len(self._waiting)

    def send(self, command: tuple[Any, ...], on_reply: OnReply) -> bytes:
        """Register a command. Return its packed bytes, which the caller passes to `write` in this order."""
        self._waiting.append(on_reply)
        return _pack(command)

    def write(self, data: bytes) -> None:
        """Write bytes packed by `send`. If the connection has ended, fail all commands that wait for a reply."""
        if self.lost is not None:
            self._fail(self.lost)
        elif self._transport is not None:
            self._transport.write(data)

    async def ask(self, *command: Any) -> Any:
        """Run one command and return its reply. Raise ReplyError or ConnectionError."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Any) -> None:
            if answer.done():
                return
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

        self.write(self.send(command, on_reply))
        return await answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport is no subclass of it

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while self.lost is None and (reply := self._reader.gets()) is not False:
                if not self._waiting:
                    # A server that rejects a client sends its reason before any command.
                    self._end(f"Valkey said unasked: {str(reply)[:200]}")
                    return
                self._waiting.popleft()(reply)
        except hiredis.ProtocolError as error:
            self._end(f"what answers does not speak Valkey's protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection to Valkey is lost{f': {exc}' if exc else ''}")
        self._transport = None

    def _end(self, reason: str) -> None:
        """End the connection: fail all waiting commands and call `on_lost`. Do nothing if it has ended already."""
        if self.lost is not None:
            return
        self.lost = ConnectionError(reason)
        self.close()
        self._fail(self.lost)
        self._on_lost(self, self.lost)

    def _fail(self, error: ConnectionError) -> None:
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            on_reply(error)
