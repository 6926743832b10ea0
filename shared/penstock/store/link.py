"""The connection to Valkey: made when a call needs it, and made again when it is lost."""

import asyncio
import logging
from typing import Final

from penstock.errors import PenstockError, make
from penstock.store.wire import ReplyError, Wire
from penstock.throttle import Throttle

log: Final = logging.getLogger(__name__)

RETRY_AFTER_MS: Final = 1000
"""What callers are told to wait while Valkey is away or full."""
AGAIN_S: Final = 0.1
"""While Valkey is away, calls are refused at once for so long."""
_AWAY: Final = ("LOADING", "MASTERDOWN", "READONLY", "ERR max number of clients")
"""Such a server reads its data yet, is a replica, or has no room for one more client: it may come, or the name may
lead to another one by now."""


class Link:
    """One open connection at most, shared by all who call."""

    def __init__(self, url: str) -> None:
        self.wire: Wire | None = None
        """The connection, while there is one."""
        self._url = url
        self._connecting: asyncio.Task[Wire] | None = None
        self._refuse_until = 0.0
        self._told = False
        self._refusals = Throttle()

    async def open(self) -> Wire:
        """The connection, made once for all who wait for it. Raises OSError, TimeoutError or ReplyError."""
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
            # Its end may have come before this line: nobody would ever tell of it again.
            if wire.lost is not None:
                raise wire.lost
            self.wire = wire
            return wire
        except (OSError, TimeoutError, ReplyError):
            self._refuse_until = asyncio.get_running_loop().time() + AGAIN_S
            raise
        finally:
            self._connecting = None

    def refused(self, error: ReplyError) -> None:
        """A call was refused as a whole: told of once in a while. A server that is away is told of once."""
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
        """Valkey does what it is asked to: whatever was, is over."""
        self._told = False

    def close(self) -> None:
        if self.wire is not None:
            self.wire.close()

    def _lost(self, wire: Wire, _error: Exception) -> None:
        if self.wire is wire:
            self.wire = None


def unavailable(error: object) -> PenstockError:
    """What callers are told when a call failed as a whole."""
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
    else:
        message = f"Valkey is away: {type(error).__name__}"
    return make("valkey_unavailable", message, retry_after_ms=RETRY_AFTER_MS)


def _is_away(error: object) -> bool:
    """Whether a server that answers this is as good as none, for now."""
    return isinstance(error, ReplyError) and str(error).startswith(_AWAY)
