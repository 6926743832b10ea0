"""A clock that tests can move."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from penstock.runtime.running import Running

_NOT_WAITED_FOR: Final = b":worker"
"""Due sets of this kind say when a silent worker is forgotten: nobody's work waits for that."""


class Clock:
    """The time of all services: Valkey's, plus an offset.

    Whatever is due by the new time happens at once: retries, delays, time limits, schedules, and leases run
    out too. Handlers, `timeout=` arguments and `asyncio.sleep` go by the real time.
    """

    def __init__(self, services: Mapping[str, Running]) -> None:
        self.offset_ms = 0
        self._services = services

    async def now(self) -> int:
        """The present instant, as the services see it: milliseconds since the Unix epoch."""
        seconds, micros = await self._valkey("TIME")
        return int(seconds) * 1000 + int(micros) // 1000 + self.offset_ms

    def move(self, by: timedelta | int) -> None:
        """On by this much (a number: milliseconds); negative goes back."""
        self.offset_ms += round(by / timedelta(milliseconds=1)) if isinstance(by, timedelta) else by
        for service in self._services.values():
            service.context.due.rebalance()

    async def skip_to_next_due(self) -> timedelta:
        """On to the earliest instant that anything waits for; answers how far that was.

        Zero when it is past, and about to happen. Raises `LookupError` when nothing waits for a time.
        """
        root = next(iter(self._services.values())).settings.root
        times: list[float] = []
        for key in await self._valkey("KEYS", f"{root}:*:due:*"):
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
