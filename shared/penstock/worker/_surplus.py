"""Leased tasks beyond the free slots, asked for ahead or in a late reply. What finds no slot soon goes back."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from penstock.worker._leases import Lease

SLOT_S: Final = 0.1
"""Seconds that a task waits for a slot. Handlers that others are asked ahead of end much faster."""


class Surplus:
    """The tasks that wait for a slot, in the order of their arrival. Their leases are renewed like all others."""

    def __init__(self, give_back: Callable[[Lease], Awaitable[None]]) -> None:
        self._give_back = give_back
        self._waiting: deque[tuple[Lease, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._returning: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, lease: Lease) -> None:
        self._waiting.append((lease, time.monotonic()))
        if self._timer is None:
            self._watch()

    def pop(self) -> Lease:
        """Return the task that has waited longest. Raise IndexError if there is none."""
        return self._waiting.popleft()[0]

    async def close(self) -> None:
        """Give all of them back."""
        self._give_back_since(time.monotonic())
        await asyncio.gather(*self._returning)

    def cancel(self) -> None:
        """Stop watching and giving back; leases that are held are left to expire."""
        if self._timer is not None:
            self._timer.cancel()
        for returning in self._returning:
            returning.cancel()

    def _watch(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SLOT_S, self._look)

    def _look(self) -> None:
        self._timer = None
        self._give_back_since(time.monotonic() - SLOT_S)
        if self._waiting:
            self._watch()

    def _give_back_since(self, latest: float) -> None:
        while self._waiting and self._waiting[0][1] <= latest:
            returning = asyncio.ensure_future(self._give_back(self.pop()))
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)
