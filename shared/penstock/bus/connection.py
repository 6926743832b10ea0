"""A NATS connection that reconnects forever and logs its state changes, without secrets."""

import asyncio
import contextlib
import logging
import os
import re
import ssl
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from nats.aio.client import Client
from nats.errors import Error as NatsError

from penstock import errors
from penstock.bus.identity import Identity
from penstock.bus.identity import read as read_identity

log: Final = logging.getLogger("penstock.bus")

# Outgoing bytes buffered while the server is unreachable; when the buffer is full, publishing fails at once.
_OUTBOUND_BYTES: Final = 16 * 1024 * 1024
_RECONNECT_WAIT_S: Final = 0.25
_PING_INTERVAL_S: Final = 15
_REFUSED: Final = re.compile(r'permissions violation for publish to "([^"]*)"')
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
    watch = _Watch(client, name, ", ".join(servers))
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

    @property
    def why_closed(self) -> str:
        """One line that tells why the connection was closed, for code that did not close it itself."""
        return f"the connection to NATS was closed for good: {_text(self.last_error)}"

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # nats-py goes on without TLS when the server (or somebody between) says that it needs none. It has not logged
        # in yet here.
        if initial_connection and self.identity is not None and not info.get("tls_required"):
            raise NatsError("the server offers no TLS, without which this identity does not log in")
        await super()._process_info(info, initial_connection)

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        # nats-py does not tell the stream that it is over TLS, and asyncio would warn at the end of each connection.
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and writer.get_extra_info("sslcontext") is not None:
            writer.transport.get_protocol()._over_ssl = True

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        try:
            await super()._close(status, do_cbs)
        finally:  # nats-py skips `closed_cb` when `_close` fails, as in writing to a dead socket
            if do_cbs:  # False between two attempts to connect
                self.closed.set()

    async def flush(self, timeout: int = FLUSH_S) -> None:
        """Return once the server has received everything sent before.

        nats-py's PING may overtake data that is still buffered (a SUB, say), so the first PONG proves nothing
        about that data. The second PING cannot overtake it.
        """
        await super().flush(timeout)
        await super().flush(timeout)


class _Watch:
    """Logger of a connection: it logs each state change once, and not every attempt to reconnect."""

    def __init__(self, client: "Connection", name: str, servers: str) -> None:
        self._client = client
        self._name = name
        self.servers = servers
        self.refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last: Exception | None = None
        self._told = False

    def advice(self) -> str:
        if self.refused.done():
            return "it refused the login; check the user, password, token or credentials file"
        if isinstance(self._last, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: are these the right credentials for it? ({_text(self._last)})"
        return f"is nats-server running, and is this its address? ({_text(self._last)})"

    async def on_error(self, error: Exception) -> None:
        self._last = error
        if refused := _REFUSED.search(str(error)):
            for tell in list(self._client.on_refused):
                tell(refused[1])
        if "authorization violation" in str(error).lower() and not self.refused.done():
            self.refused.set_result(None)
        if self._client.is_connected:
            log.warning("%s: NATS: %s", self._name, _text(error))
        elif not self._told:
            self._told = True
            log.warning("%s: NATS at %s is away (%s); trying on", self._name, self.servers, _text(error))

    async def on_disconnect(self) -> None:
        if not self._told and not self._client.is_closed:
            self._told = True
            log.warning("%s: lost the connection to NATS at %s; trying on", self._name, self.servers)

    async def on_reconnect(self) -> None:
        self._told = False
        log.warning("%s: connected to NATS again", self._name)

    async def on_close(self) -> None:
        log.info("%s: the connection to NATS is closed", self._name)


def _text(error: Exception | None) -> str:
    return "no answer" if error is None else str(error) or type(error).__name__
