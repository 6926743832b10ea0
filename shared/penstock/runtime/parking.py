"""Calls that are held open until something has come to its end.

Its end sends a hint. A hint may be lost, so a parked call looks again every sweep.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Parking:
    """The calls parked in this process, by the id of what they wait for."""

    def __init__(self, sweep_s: float) -> None:
        self._sweep_s = sweep_s
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._draining = False

    def wake(self, _partition: int, ids: Any) -> None:
        """Handle a hint: the calls parked for these ids look again."""
        for each in ids:
            for event in self._waiting.get(each, ()):
                event.set()

    async def drain(self) -> None:
        """Release all parked calls, now and from now on."""
        self._draining = True
        self.wake(0, self._waiting)

    async def until(
        self, id: str, seconds: float, look: Callable[[], Awaitable[T]], over: Callable[[T], bool]
    ) -> T:
        """Return what `look()` tells once that is `over`, or after so many seconds. Raise what `look` raises."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        # Register before the first look, so that an end in between is not missed.
        event = asyncio.Event()
        waiting = self._waiting.setdefault(id, set())
        waiting.add(event)
        try:
            while True:
                event.clear()
                seen = await look()
                left = deadline - loop.time()
                if over(seen) or left <= 0 or self._draining:
                    return seen
                try:
                    async with asyncio.timeout(min(left, self._sweep_s)):
                        await event.wait()
                except TimeoutError:
                    pass
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(id, None)
