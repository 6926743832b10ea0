"""Readiness of a service: a few named conditions that are checked, and logged when they change."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

from nats.aio.client import Client

from penstock.runtime.logging import Log

CHECK_EVERY_S: Final = 1.0
CHECK_TIMEOUT_S: Final = 2.0
QUIET_S: Final = 6.0
"""While Valkey has answered within this time, it is not asked. A little more than a sweep, which asks it."""
ASK_S: Final = 30.0
"""Seconds after which Valkey is asked at all events, which also corrects the estimate of its clock."""


class Health:
    """The conditions for being ready: NATS connected, Valkey answering, Lua library loaded, endpoints started.

    A service that consumes streams, or publishes to one, has a condition for each: the stream's full name.

    A service that loses NATS or Valkey is not ready, and becomes ready again once the server is back.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._conditions = {"nats": False, "valkey": False, "library": False, "endpoints": False}
        self._seen: set[str] = set()
        self._draining = False
        self.on_back: list[Callable[[], None]] = []
        """Callbacks for when NATS or Valkey is back: hints may have been lost meanwhile."""
        self.on_change: list[Callable[[str, bool], None]] = []
        """Callbacks for each change of a condition: they get its name and whether it holds now."""

    def set(self, name: str, holds: bool, why: str = "") -> None:
        """Set whether a condition holds; on a change, log it (with `why`, if given) and call the listeners."""
        if self._conditions.get(name) == holds:
            return
        self._conditions[name] = holds
        for listener in self.on_change:
            listener(name, holds)
        if not holds:
            self._log.warning(f"{name} is away", **({"reason": why} if why else {}))
        elif name in self._seen:
            self._log.info(f"{name} is back")
            for callback in self.on_back:
                callback()
        self._seen.add(name)

    def drain(self) -> None:
        """Become not ready for good, so that no new requests are routed to this service."""
        self._draining = True

    def holds(self, name: str) -> bool:
        return self._conditions[name]

    @property
    def ready(self) -> bool:
        return not self.missing()

    def missing(self) -> list[str]:
        """Return the names of the conditions that do not hold, and `draining` while the service stops."""
        missing = [name for name, holds in self._conditions.items() if not holds]
        return [*missing, "draining"] if self._draining else missing

    async def watch(
        self, nats: Client, ping: Callable[[], Awaitable[object]], heard_s: Callable[[], float]
    ) -> None:
        """Check NATS and Valkey every second, forever. heard_s: see `Store.heard_s`."""
        asked_at = -math.inf
        while True:
            self.set("nats", nats.is_connected)
            if heard_s() < QUIET_S and time.monotonic() - asked_at < ASK_S:
                self.set("valkey", True)
            else:
                try:
                    async with asyncio.timeout(CHECK_TIMEOUT_S):
                        await ping()
                    asked_at = time.monotonic()
                    self.set("valkey", True)
                except Exception:  # for any reason; the calls that fail report details
                    self.set("valkey", False)
            await asyncio.sleep(CHECK_EVERY_S)
