"""The connection to Valkey: opened when a call needs it, and reopened after it is lost."""

import asyncio
import logging
import math
from typing import Any, Final

from penstock.errors import PenstockError, make
from penstock.store.wire import ReplyError, Wire
from penstock.throttle import Throttle

log: Final = logging.getLogger(__name__)

RETRY_AFTER_MS: Final = 1000
"""The retry_after_ms in errors to callers while Valkey is unavailable or full."""
AGAIN_S: Final = 0.1
"""For this long after Valkey was found away, calls fail at once, without an attempt to connect."""
LATE_S: Final = 1.0
"""A call that takes longer may be to a server that has died: it is pinged, and the topology is looked at."""
_AWAY: Final = ("LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "ERR max number of clients")
"""Replies of a server that still loads its data, is a replica, has lost its cluster or has too many clients. Connecting
again may help: the server recovers, or its name now leads to another server."""
_ELSEWHERE: Final = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "MASTERDOWN", "LOADING")
"""Replies of a server that did not run the call, which another server may do, now or soon."""


class Explained(ConnectionError):
    """A failure whose text is meant for callers."""


class Link:
    """At most one open connection, shared by all callers."""

    def __init__(self, url: str) -> None:
        self.wire: Wire | None = None
        """The open connection, or None."""
        self.answered_at = -math.inf
        """When a call was last answered, by the loop's clock; minus infinity if one has failed since."""
        self._url = url
        self._connecting: asyncio.Task[Wire] | None = None
        self._refuse_until = 0.0
        self._told = False
        self._refusals = Throttle()

    async def open(self) -> Wire:
        """Return the connection, made once for all concurrent callers. Raise OSError, TimeoutError or ReplyError."""
        if self.wire is not None:
            return self.wire
        loop = asyncio.get_running_loop()
        if loop.time() < self._refuse_until:
            raise ConnectionError("Valkey was away a moment ago")
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> Wire:
        try:
            wire = await Wire.connect(self._url, self._lost)
            # The wire may have ended already. `_lost` is called only once, so an ended wire would be kept for good.
            if wire.lost is not None:
                raise wire.lost
            self.wire = wire
            return wire
        except (OSError, TimeoutError, ReplyError):
            self._refuse_until = asyncio.get_running_loop().time() + AGAIN_S
            raise
        finally:
            self._connecting = None

    def failed(self, error: Any) -> None:
        """Note that a call failed. Log refusals at a limited rate; if the server is away, log that and disconnect."""
        self.answered_at = -math.inf
        if not isinstance(error, ReplyError):
            return
        if not _is_away(error):
            if self._refusals.passes():
                log.error(
                    "Valkey refused a call (%d more since the last such line): %s", self._refusals.held, error
                )
                self._refusals.held = 0
            return
        if not self._told:
            self._told = True
            log.warning("Valkey is away: %s", error)
        self._refuse_until = asyncio.get_running_loop().time() + AGAIN_S
        self.close()

    def answered(self) -> None:
        """Note that Valkey answered a call, so that the next outage is logged again."""
        self.answered_at = asyncio.get_running_loop().time()
        self._told = False

    def close(self) -> None:
        if self.wire is not None:
            self.wire.close()

    def _lost(self, wire: Wire, _error: Exception) -> None:
        if self.wire is wire:
            self.wire = None


def unavailable(error: object) -> PenstockError:
    """Make the error that callers get when a call failed as a whole."""
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, ReplyError):
        said = str(error)[:200]
        if said.startswith("OOM"):
            message = (
                f"Valkey is out of memory, give it more (maxmemory) or wait until work has ended: {said}"
            )
        else:
            message = f"Valkey {'is away' if _is_away(error) else 'refused the call'}: {said}"
    elif isinstance(error, Explained):
        message = str(error)
    else:
        message = f"Valkey is away: {type(error).__name__}"
    return make("valkey_unavailable", message, retry_after_ms=RETRY_AFTER_MS)


def _is_away(error: object) -> bool:
    """Return whether a server that replies this cannot serve any call for now."""
    return isinstance(error, ReplyError) and str(error).startswith(_AWAY)


def is_elsewhere(error: object) -> bool:
    """Return whether this reply says that the call was not run, and that another server may run it, now or soon."""
    return isinstance(error, ReplyError) and str(error).startswith(_ELSEWHERE)
