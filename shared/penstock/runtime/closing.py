"""How a service stops: the steps that undo its start, in reverse order, each within its time."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from penstock.runtime.logging import Log

CLOSING_S: Final = 3.0
"""Seconds that each closing step may take (flush, disconnect), beside the drain timeout of patient steps."""


class Closing:
    """The steps registered so far. A step that fails or takes too long is logged and does not hold up the others."""

    def __init__(self, patience_s: float, log: Log) -> None:
        """patience_s: the drain timeout, in seconds from `run` on. All patient steps share it."""
        self._log = log
        self._steps = contextlib.AsyncExitStack()
        self._stopping: asyncio.Task[None] | None = None
        self._patience = patience_s
        self._deadline = 0.0

    def add(self, what: str, step: Callable[[], Awaitable[None]], *, patient: bool = False) -> None:
        """Register a step of `run`. `patient` steps may also use what is left of the drain timeout."""

        async def undo() -> None:
            seconds = (self.left_s() if patient else 0.0) + CLOSING_S
            try:
                async with asyncio.timeout(seconds):
                    await step()
            except TimeoutError:
                self._log.warning(f"{what} took too long")
            except Exception:
                self._log.exception(f"{what} failed")

        self._steps.push_async_callback(undo)

    def left_s(self) -> float:
        """Return how many seconds of the drain timeout are left."""
        return max(0.0, self._deadline - time.monotonic())

    async def run(self) -> None:
        """Run the steps, the last one first; in a second call, wait for those that run."""
        if self._stopping is None:
            self._deadline = time.monotonic() + self._patience
            self._stopping = asyncio.create_task(self._steps.aclose())
        await asyncio.shield(self._stopping)
