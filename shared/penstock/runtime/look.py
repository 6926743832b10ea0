"""What a service looks up for its metrics: the leader looks once a sweep, so that a scrape costs Valkey nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from penstock.errors import PenstockError
from penstock.runtime.service import Context

T = TypeVar("T")


class Look(Generic[T]):
    """A look at something that all instances of a service share, taken by the leader alone.

    `seen` is what the leader saw last. It is `nothing` on every other instance, and while Valkey cannot be reached:
    a metric that is absent tells the truth, one that stands still does not.
    """

    def __init__(self, context: Context, look: Callable[[], Awaitable[T]], nothing: T) -> None:
        self.seen = nothing
        self._nothing = nothing
        self._look = look
        self._leads = context.membership.is_leader
        self._every_s = context.settings.sweep_ms / 1000

    async def run(self) -> None:
        """Look again and again, until cancelled (a loop of `Service.background`)."""
        while True:
            try:
                self.seen = await self._look() if self._leads() else self._nothing
            except PenstockError:  # Valkey is away, which others log
                self.seen = self._nothing
            await asyncio.sleep(self._every_s)
