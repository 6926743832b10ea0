"""A NATS connection that reconnects forever and logs its state changes, without secrets."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from penstock import errors
from penstock.bus.identity import Identity
from penstock.bus.identity import read as read_identity
from penstock.bus.incoming import Incoming, Take, Takers
from penstock.bus.watch import Watch, text_of

log: Final = logging.getLogger("penstock.bus")

# Outgoing bytes buffered while the server is unreachable; when the buffer is full, publishing fails at once.
_OUTBOUND_BYTES: Final = 16 * 1024 * 1024
_RECONNECT_WAIT_S: Final = 0.25
_PING_INTERVAL_S: Final = 15
FLUSH_S: Final = 10
LEAVE_S: Final = 2.0


async def connect(
    url: str, name: str, credentials: str | None = None, *, wait: bool = False, timeout: float = 5.0
) -> "Connection":
    """Connect to NATS; the connection reconnects by itself from then on.

    `url` may name several servers, separated by commas, and hold `user:password@` or `token@`.
    `credentials` is the path of an identity (`penstock secure`) or a NATS credentials file. With `wait` (services),
    retry until a server answers, but raise an error when the login was refused and is not taken within `timeout`
    seconds by another server; without (clients), raise a `timeout` error after `timeout` seconds, with advice on what
    to check.
    """
    servers, login = _split(url)
    identity = None
    if credentials is not None:
        identity = read_identity(_readable(credentials))
        if identity is None:
            login["user_credentials"] = credentials
        else:
            login = identity.login()
    client = Connection(identity)
    watch = Watch(client, name, ", ".join(servers), client.on_refused)
    opening = asyncio.ensure_future(
        client.connect(
            servers=servers,
            name=name,
            error_cb=watch.on_error,
            disconnected_cb=watch.on_disconnect,
            reconnected_cb=watch.on_reconnect,
            closed_cb=watch.on_close,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_WAIT_S,  # pyright: ignore[reportArgumentType] - seconds, fractions too
            ping_interval=_PING_INTERVAL_S,
            max_outstanding_pings=2,
            pending_size=_OUTBOUND_BYTES,
            **login,
        )
    )
    try:
        if wait:
            await asyncio.wait({opening, watch.refused}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({opening}, timeout=timeout)
            if opening.done():
                await opening
                return client
            raise errors.make("timeout", f"cannot use NATS at {watch.servers}: {watch.advice()}")
        await asyncio.wait({opening, watch.refused}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            await opening
            return client
    finally:
        if not opening.done():
            while not opening.done():  # nats-py's asyncio.wait_for (3.11) may swallow a cancellation
                opening.cancel()
                await asyncio.wait({opening}, timeout=0.1)
            await client.close()
    raise errors.make("timeout", f"cannot reach NATS at {watch.servers}: {watch.advice()}")


def identity_of(nats: Client) -> Identity | None:
    """Return who a connection belongs to; None for one that `connect` has not opened with an identity."""
    return nats.identity if isinstance(nats, Connection) else None


async def leave(nats: Client) -> None:
    """Flush and close a connection. The flush waits at most `LEAVE_S`, so a dead server cannot block the caller."""
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        if nats.is_connected:
            await asyncio.wait_for(nats.flush(), LEAVE_S)
    with contextlib.suppress(Exception):  # uvloop raises RuntimeError when the socket is already closed
        await nats.close()


def _readable(credentials: str) -> Path:
    path = Path(credentials)
    if not os.access(path, os.R_OK) or not path.is_file():
        raise errors.make(
            "invalid_request",
            f"there is no NATS credentials file {credentials} that can be read",
            detail={"field": "credentials"},
        )
    if find_spec("nkeys") is None:
        raise errors.make(
            "invalid_request", "a NATS credentials file needs the package nkeys: install nats-py[nkeys]"
        )
    return path


def _split(url: str) -> tuple[list[str], dict[str, Any]]:
    """Split URLs into servers without login, and the login, so that no URL with a secret can reach a log."""
    servers: list[str] = []
    login: dict[str, Any] = {}
    for one in filter(None, (part.strip() for part in url.split(","))):
        try:
            parts = urlsplit(one if "://" in one else f"nats://{one}")
            host, _ = parts.hostname, parts.port  # `.port` raises ValueError for an invalid port
        except ValueError:
            host = None
            parts = urlsplit("")
        if not host:
            raise errors.make(
                "invalid_request",
                "the NATS URL must read nats://[user:password@]host:port",
                detail={"field": "url"},
            )
        if parts.username and parts.password:
            login = {"user": unquote(parts.username), "password": unquote(parts.password)}
        elif parts.username:
            login = {"token": unquote(parts.username)}
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        servers.append(urlunsplit(bare))
    if not servers:
        raise errors.make("invalid_request", "no NATS URL is given", detail={"field": "url"})
    return servers, login


class Connection(Client):
    """nats-py's client with a reliable `flush`, and an event `closed` that tells when it is closed for good.

    Messages are taken in the tick in which they arrive (`listening.py`, `incoming.py`), and what is published in a tick
    is written at its end: nats-py has a task for each, and waking a task is a turn of the event loop.

    A server error that concerns the whole connection (login revoked, too many connections) closes the client
    for good: nats-py reconnects only after a lost connection.
    """

    def __init__(self, identity: Identity | None = None) -> None:
        super().__init__()
        self.identity = identity
        """Who this is, in a secured deployment."""
        self.on_refused: list[Callable[[str], None]] = []
        """Called with the subject, in lower case, that the server does not let this user publish to."""
        self.closed = asyncio.Event()
        self.takers = Takers()
        self._incoming: Incoming | None = None
        self._socket: asyncio.Transport | None = None
        self._will_write = False
        self._ended = False

    def take_at_once(self, subscription: Subscription, take: Take) -> None:
        """Call `take` with each message of a subscription in the tick of its arrival, instead of its callback."""
        self.takers.by_sid[b"%d" % subscription._id] = take  # pyright: ignore[reportPrivateUsage]

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self.takers.by_sid.pop(b"%d" % sid, None)

    @property
    def why_closed(self) -> str:
        """One line that tells why the connection was closed, for code that did not close it itself."""
        return f"the connection to NATS was closed for good: {text_of(self.last_error)}"

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # nats-py goes on without TLS when the server (or somebody between) says that it needs none. It has not logged
        # in yet here.
        if initial_connection and self.identity is not None and not info.get("tls_required"):
            raise NatsError("the server offers no TLS, without which this identity does not log in")
        await super()._process_info(info, initial_connection)

    async def _connect_to_server(self, s: Any) -> None:
        # nats-py cancels its attempt to reconnect. Before Python 3.12 `wait_for` may swallow that, and an attempt that
        # fails then goes on for ever, as if the connection had not been closed.
        if self._ended:
            raise asyncio.CancelledError
        await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        # nats-py does not tell the stream that it is over TLS, and asyncio would warn at the end of each connection.
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and writer.get_extra_info("sslcontext") is not None:
            writer.transport.get_protocol()._over_ssl = True
        self._socket = None if writer is None else writer.transport
        self._incoming = None if self._socket is None else self._stand_before(self._socket)

    def _stand_before(self, transport: asyncio.Transport) -> Incoming:
        """Let `Incoming` have what arrives from now on, and what nats-py has not read yet."""
        self._loop = asyncio.get_running_loop()
        streams: Any = transport.get_protocol()
        incoming = Incoming(self, self.takers, streams)
        transport.set_protocol(incoming)
        unread = bytes(streams._stream_reader._buffer)
        streams._stream_reader._buffer.clear()
        incoming.data_received(unread)
        return incoming

    def post(self, subject: str, body: bytes, reply: str) -> bool:
        """Publish at the end of this tick. See `sending.post`."""
        if not self._may_write or len(body) > self._max_payload:
            return False
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(body)
        command = b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(body), body)
        self._pending.append(command)
        self._pending_data_size += len(command)
        self._write_soon()
        return True

    @property
    def _may_write(self) -> bool:
        incoming = self._incoming
        return incoming is not None and not incoming.paused and self.is_connected

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if force_flush or not self._may_write:
            return await super()._flush_pending(force_flush)  # nats-py waits until there is room
        self._write_soon()
        return None

    def _write_soon(self) -> None:
        if not self._will_write:
            self._will_write = True
            self._loop.call_soon(self.write)

    def write(self) -> None:
        """Write what was published in this tick."""
        self._will_write = False
        if not self._pending or self._transport is None or self._socket is None or not self.is_connected:
            return  # nats-py writes it when it is connected again
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        with contextlib.suppress(OSError, RuntimeError):  # the socket has ended, which its reader notices
            self._socket.write(pending[0] if len(pending) == 1 else b"".join(pending))

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        task = asyncio.current_task()
        self._ended = self._ended or do_cbs  # False between two attempts to connect
        try:
            await super()._close(status, do_cbs)
        except asyncio.CancelledError:
            # nats-py cancels its own attempt to reconnect, which may be waiting for the end of the socket. That cancels
            # what all wait for who wait for the end of the socket, here too, though nobody has canceled this task.
            if task is None or task.cancelling():
                raise
        finally:  # nats-py skips `closed_cb` when `_close` fails, as in writing to a dead socket
            if do_cbs:
                self.takers.by_sid.clear()
                self.closed.set()

    async def flush(self, timeout: int = FLUSH_S) -> None:
        """Return once the server has received everything sent before.

        nats-py's PING may overtake data that is still buffered (a SUB, say), so the first PONG proves nothing
        about that data. The second PING cannot overtake it.
        """
        await super().flush(timeout)
        await super().flush(timeout)
