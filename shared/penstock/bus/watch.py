"""What becomes of a connection to NATS: its log lines, and advice for who cannot connect."""

import asyncio
import logging
import re
import ssl
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client

log: Final = logging.getLogger("penstock.bus")

_REFUSED: Final = re.compile(r'permissions violation for publish to "([^"]*)"')


class Watch:
    """Logger of a connection: it logs each state change once, and not every attempt to reconnect."""

    def __init__(
        self, client: Client, name: str, servers: str, on_refused: list[Callable[[str], None]]
    ) -> None:
        """on_refused: called with each subject, in lower case, that the server does not let this user publish to."""
        self._client = client
        self._on_refused = on_refused
        self._name = name
        self.servers = servers
        self.refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last: Exception | None = None
        self._told = False

    def advice(self) -> str:
        if self.refused.done():
            return "it refused the login; check the user, password, token or credentials file"
        if isinstance(self._last, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: are these the right credentials for it? ({text_of(self._last)})"
        return f"is nats-server running, and is this its address? ({text_of(self._last)})"

    async def on_error(self, error: Exception) -> None:
        self._last = error
        if refused := _REFUSED.search(str(error)):
            for tell in list(self._on_refused):
                tell(refused[1])
        if "authorization violation" in str(error).lower() and not self.refused.done():
            self.refused.set_result(None)
        if self._client.is_connected:
            log.warning("%s: NATS: %s", self._name, text_of(error))
        elif not self._told:
            self._told = True
            log.warning("%s: NATS at %s is away (%s); trying on", self._name, self.servers, text_of(error))

    async def on_disconnect(self) -> None:
        if not self._told and not self._client.is_closed:
            self._told = True
            log.warning("%s: lost the connection to NATS at %s; trying on", self._name, self.servers)

    async def on_reconnect(self) -> None:
        self._told = False
        log.warning("%s: connected to NATS again", self._name)

    async def on_close(self) -> None:
        log.info("%s: the connection to NATS is closed", self._name)


def text_of(error: Exception | None) -> str:
    return "no answer" if error is None else str(error) or type(error).__name__
