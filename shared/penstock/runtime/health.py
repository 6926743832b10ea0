"""Alive and ready: a handful of named conditions, watched, and logged when they change."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from nats.aio.client import Client

from penstock.runtime.logging import Log

CHECK_EVERY_S: Final = 1.0
CHECK_TIMEOUT_S: Final = 2.0


class Health:
    """A service is ready when NATS is connected, Valkey answers, the library is loaded, the endpoints stand.

    Losing NATS or Valkey later makes it not ready; it becomes ready again by itself.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._conditions = {"nats": False, "valkey": False, "library": False, "endpoints": False}
        self._seen: set[str] = set()
        self._draining = False
        self.on_back: list[Callable[[], None]] = []
        """Called when NATS or Valkey is back: hints may have been lost meanwhile."""
        self.on_change: list[Callable[[str, bool], None]] = []
        """Called with each condition that changes, and whether it holds now."""

    def set(self, name: str, holds: bool) -> None:
        """A condition holds, or no longer."""
        if self._conditions.get(name) == holds:
            return
        self._conditions[name] = holds
        for listener in self.on_change:
            listener(name, holds)
        if not holds:
            self._log.warning(f"{name} is away")
        elif name in self._seen:
            self._log.info(f"{name} is back")
            for callback in self.on_back:
                callback()
        self._seen.add(name)

    def drain(self) -> None:
        """From now on not ready: send no new work here."""
        self._draining = True

    def holds(self, name: str) -> bool:
        return self._conditions[name]

    @property
    def ready(self) -> bool:
        return not self.missing()

    def missing(self) -> list[str]:
        """What stands in the way of being ready."""
        missing = [name for name, holds in self._conditions.items() if not holds]
        return [*missing, "draining"] if self._draining else missing

    async def watch(self, nats: Client, ping: Callable[[], Awaitable[object]]) -> None:
        """Looks at NATS and Valkey every second, for ever."""
        while True:
            self.set("nats", nats.is_connected)
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    await ping()
                self.set("valkey", True)
            except Exception:  # whatever the reason, it did not answer; the caller's errors say more
                self.set("valkey", False)
            await asyncio.sleep(CHECK_EVERY_S)
