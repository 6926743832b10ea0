"""Measures how long the worker's event loop does not turn, and tells of it from a thread while it still does not.

A handler that blocks the event loop (a long computation, `time.sleep`) also blocks the renewal of all leases: tasks are
lost, and the logs of the services show only a silent worker. The thread has a loop and a NATS connection of its own,
for as long as it tells. It renews nothing: a loop that never turns again must lose its tasks.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from penstock import errors, verbs
from penstock.bus.connection import connect, leave
from penstock.bus.requester import Requester
from penstock.messages.leases import LeaseStalled, TaskMessage

log: Final = logging.getLogger("penstock.worker")

TICK_S: Final = 0.25
"""How often the loop shows that it turns. Shorter delays than this are not measured."""

Tell = Callable[[int], Awaitable[None]]
"""Tell the services that the loop has been blocked for so many milliseconds. It runs in the thread's own loop."""


class LoopWatch:
    """Watches the running event loop, between `start` and `stop`. `limit`: seconds of silence until it `tell`s."""

    def __init__(self, limit: float, tell: Tell) -> None:
        self._limit = limit
        self._tell = tell
        self._turned = time.monotonic()
        self._longest = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        self._turned = time.monotonic()
        self._turn()
        threading.Thread(target=self._watch, name="penstock-loop-watch", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()

    def longest_ms(self) -> int:
        """Return the longest time that the loop did not turn since the last call of this, in milliseconds."""
        longest = max(self._longest, self._silence())
        self._longest = 0.0
        return round(longest * 1000)

    def _silence(self) -> float:
        """Return for how many seconds the loop has not turned, beyond the time between two ticks."""
        return max(0.0, time.monotonic() - self._turned - TICK_S)

    def _turn(self) -> None:
        self._longest = max(self._longest, self._silence())
        self._turned = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._turn)

    def _watch(self) -> None:
        """Run in the thread: tell when the loop has been silent for `limit`, and again after twice as long."""
        told = self._limit
        while not self._ended.wait(self._limit / 4):
            silence = self._silence()
            if silence < self._limit:
                told = self._limit
            elif silence >= told:
                told = 2 * silence
                with contextlib.suppress(errors.PenstockError, OSError, TimeoutError):
                    asyncio.run(self._told())

    async def _told(self) -> None:
        await self._tell(round(self._silence() * 1000))


class Config(Protocol):
    """Of a worker's settings, those that the thread needs to connect (`_session.WorkerConfig` has them)."""

    @property
    def url(self) -> str: ...
    @property
    def credentials(self) -> str | None: ...
    @property
    def root(self) -> str: ...


def teller(config: Config, held: Callable[[], list[TaskMessage]]) -> Tell:
    """Return the `tell` of a worker: `lease.stalled` for each lease that it holds."""

    async def tell(blocked_ms: int) -> None:
        messages = held()
        if not messages:
            return
        log.error("the event loop has been blocked for %.1f s: no lease can be renewed", blocked_ms / 1000)
        nats = await connect(config.url, "penstock-worker loop-watch", config.credentials)
        try:
            requester = Requester(nats, config.root)
            stalled = (
                LeaseStalled(
                    execution_id=each.execution_id,
                    attempt_index=each.attempt_index,
                    lease_id=each.lease_id,
                    lease_epoch=each.lease_epoch,
                    blocked_ms=blocked_ms,
                )
                for each in messages
            )
            asked = (requester.send(verbs.LEASE_STALLED, each) for each in stalled)
            await asyncio.gather(*asked, return_exceptions=True)
            await requester.close()
        finally:
            await leave(nats)

    return tell
