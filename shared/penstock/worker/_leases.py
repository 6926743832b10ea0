"""The leases that this worker holds, and the one loop that renews them all.

Short tasks end before a renewal. Renewing a thousand long tasks costs a few batch messages every ttl/3.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from penstock import errors, verbs
from penstock.bus.requester import Requester
from penstock.clock import ValkeyClock
from penstock.messages.leases import LeaseRenew, Renewed, TaskMessage
from penstock.messages.workers import MAX_HOLDS, Holding

log: Final = logging.getLogger("penstock.worker")

UNHEALTHY_AFTER: Final = 3
LATE: Final = (
    "no lease could be renewed for %.1f s: the process was paused, or an async handler blocks the event loop "
    "(a plain def runs in a thread)"
)
# Error codes that mean that this worker no longer holds the lease.
LOST: Final = frozenset(
    {
        "stale_lease",
        "lease_expired",
        "lease_revoked",
        "no_active_lease",
        "execution_not_active",
        "execution_not_found",
    }
)


class Lease:
    """One lease: the time until which it surely holds, and the way to stop its handler."""

    __slots__ = (
        "abandoned",
        "began",
        "cancel_requested",
        "expires",
        "failures",
        "lost",
        "message",
        "on_stop",
        "runner",
    )

    def __init__(self, message: TaskMessage, ttl: float, clock: ValkeyClock) -> None:
        self.message = message
        # The task may have traveled long, so its lease may end earlier than `ttl` after its arrival: by Valkey's clock.
        # While that clock is not known well, `expires` lies in the past, and a renewal must show that the lease holds.
        self.expires = min(time.monotonic() + ttl, clock.earliest(message.lease_expires_at))
        self.failures = 0
        self.lost: str | None = None
        # An execution that ends after its compensations is leased only for these.
        self.cancel_requested = message.ending is not None
        # When the handler began, by Valkey's clock (ms since the Unix epoch).
        self.began: int | None = None
        # The worker is shutting down: the lease is left to expire.
        self.abandoned = False
        # Interrupts the handler. Set only while an interruptible (async) handler runs.
        self.on_stop: Callable[[], object] | None = None
        # Keeps the running task alive: the event loop itself holds only a weak reference.
        self.runner: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """False once the lease is lost, past its end, or after three failed renewals in a row."""
        return self.ours and self.failures < UNHEALTHY_AFTER

    @property
    def ours(self) -> bool:
        """Whether this worker surely holds the lease: not lost, and not past its end."""
        return self.lost is None and time.monotonic() < self.expires

    @property
    def interrupts(self) -> tuple[object, ...]:
        """For what the handler was interrupted so far: a change means that it is to be interrupted once more."""
        return self.lost, self.cancel_requested, self.abandoned

    def stop(self) -> None:
        """Interrupt the handler, if an interruptible one runs."""
        if self.on_stop is not None:
            stop, self.on_stop = self.on_stop, None
            stop()

    def lose(self, why: str) -> None:
        """Mark the lease as lost and stop the handler. Another worker may hold it now, so no outcome is sent."""
        if self.lost is None:
            self.lost = why
            self.stop()

    def cancel(self) -> None:
        """Note a request to cancel the execution, and stop the handler."""
        if not self.cancel_requested:
            self.cancel_requested = True
            self.stop()

    def abandon(self) -> None:
        """Stop the handler at the end of a shutdown's grace time."""
        self.abandoned = True
        self.stop()


class LeaseRenewer:
    """All leases that this worker holds, by lease id, and their renewal."""

    def __init__(self, requester: Requester, ttl: float) -> None:
        self.ttl = ttl
        self.clock = ValkeyClock()
        self.held: dict[str, Lease] = {}
        self._requester = requester
        self._ttl_ms = round(ttl * 1000)

    def add(self, message: TaskMessage) -> Lease:
        lease = Lease(message, self.ttl, self.clock)
        self.held[message.lease_id] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        """Forget an ended lease, so that it is no longer renewed."""
        self.held.pop(lease.message.lease_id, None)

    def holding(self) -> list[Holding]:
        """Return the tasks whose handlers run, the oldest first: as many as a heartbeat may name."""
        running = [
            Holding(execution_id=lease.message.execution_id, kind=lease.message.kind, since=lease.began)
            for lease in self.held.values()
            if lease.began is not None
        ]
        return sorted(running, key=lambda each: each.since)[:MAX_HOLDS]

    async def renew_for_ever(self) -> None:
        """Renew all held leases every ttl/3."""
        tick = self.ttl / 3
        while True:
            started = time.monotonic()
            await self._renew_all(tick)
            await asyncio.sleep(max(0.0, started + tick - time.monotonic()))
            late = time.monotonic() - started - tick
            if late > tick and self.held:
                log.warning(LATE, late)

    async def _renew_all(self, timeout: float) -> None:
        leases = list(self.held.values())
        if leases:
            await asyncio.gather(*(self.renew(lease, timeout) for lease in leases), return_exceptions=True)
        now = time.monotonic()
        for lease in leases:
            if now >= lease.expires and lease.message.lease_id in self.held:
                lease.lose("lease_expired")

    async def renew(self, lease: Lease, timeout: float | None = None) -> Renewed:
        """Renew a lease for another ttl. On an error, count the failure or mark the lease as lost, then raise."""
        message = lease.message
        request = LeaseRenew(
            execution_id=message.execution_id,
            attempt_index=message.attempt_index,
            lease_id=message.lease_id,
            lease_epoch=message.lease_epoch,
            lease_ttl_ms=self._ttl_ms,
        )
        # Count the ttl from before sending, so that the local end is never later than the true one.
        asked = time.monotonic()
        try:
            reply = await self._requester.send(verbs.LEASE_RENEW, request, timeout=timeout)
        except errors.PenstockError as error:
            if error.code in LOST:
                lease.lose(error.code)
            else:
                lease.failures += 1
            raise
        lease.failures = 0
        lease.expires = asked + self.ttl
        if reply.cancel_requested:
            lease.cancel()
        return reply
