"""A clock that tests can move."""

import itertools
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from penstock.runtime.running import Running

_NOT_WAITED_FOR: Final = (b":worker", b":kind")
"""Suffixes of the due sets for forgetting silent workers and kinds. No execution waits for these: they are skipped."""


class Clock:
    """The time of all services: Valkey's time plus an offset.

    Everything that is due by the new time happens at once: retries, delays, timeouts, schedules, and the expiry
    of leases. Handlers, `timeout=` arguments and `asyncio.sleep` use the real time.
    """

    def __init__(self, services: Mapping[str, Running]) -> None:
        self.offset_ms = 0
        self._services = services

    async def now(self) -> int:
        """Return the services' current time, in milliseconds since the Unix epoch."""
        seconds, micros = await self._valkey("TIME")
        return int(seconds) * 1000 + int(micros) // 1000 + self.offset_ms

    def move(self, by: timedelta | int) -> None:
        """Move the clock forward by a timedelta or by milliseconds. A negative value moves it back."""
        self.offset_ms += round(by / timedelta(milliseconds=1)) if isinstance(by, timedelta) else by
        for service in self._services.values():
            service.context.due.rebalance()

    async def skip_to_next_due(self) -> timedelta:
        """Move the clock to the earliest time that anything waits for. Return how far it moved.

        The result is zero if that time is already past. Raises `LookupError` if nothing waits for a time.
        """
        root = next(iter(self._services.values())).settings.root
        times: list[float] = []
        store = next(iter(self._services.values())).context.machine.store
        found = await store.execute_everywhere("KEYS", f"{root}:*:due:*")
        for key in itertools.chain.from_iterable(found):
            if not key.endswith(_NOT_WAITED_FOR):
                _, at = await self._valkey("ZRANGE", key, 0, 0, "WITHSCORES")
                times.append(float(at))
        if not times:
            raise LookupError("nothing waits for a time")
        ahead = timedelta(milliseconds=max(0, round(min(times)) + 1 - await self.now()))
        self.move(ahead)
        return ahead

    async def _valkey(self, *command: object) -> list[bytes]:
        return await next(iter(self._services.values())).context.machine.store.execute(*command)
