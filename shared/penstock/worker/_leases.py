"""The leases that this worker holds, and the one loop that renews them all.

Short tasks never see a renewal; a thousand long ones cost a few batch messages every ttl/3.
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

log: Final = logging.getLogger("penstock.worker")

UNHEALTHY_AFTER: Final = 3
LATE: Final = (
    "no lease could be renewed for %.1f s: the process was paused, or an async handler blocks the event loop "
    "(a plain def runs in a thread)"
)
# A fence that gets one of these is no longer ours.
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
    """One lease: until when it surely holds, and how to stop the handler that works under it."""

    __slots__ = (
        "abandoned",
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
        # A task may have been long on its way: its lease ends when its own clock says so, not `ttl` after its arrival.
        # As long as that clock is known badly, this lies in the past, and a renewal has to show that the lease holds.
        self.expires = min(time.monotonic() + ttl, clock.earliest(message.lease_expires_at))
        self.failures = 0
        self.lost: str | None = None
        self.cancel_requested = False
        # The worker is going down: the lease is left to expire.
        self.abandoned = False
        # Set while a handler runs that can be interrupted.
        self.on_stop: Callable[[], object] | None = None
        # Keeps the running task alive: the event loop itself holds only a weak reference.
        self.runner: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """False once lost, past its end, or after three failed renewals in a row."""
        return self.ours and self.failures < UNHEALTHY_AFTER

    @property
    def ours(self) -> bool:
        """Whether nobody else can hold it yet."""
        return self.lost is None and time.monotonic() < self.expires

    @property
    def stopping(self) -> bool:
        """Whether its handler is to be interrupted."""
        return self.lost is not None or self.cancel_requested or self.abandoned

    def stop(self) -> None:
        """Interrupt its handler, if one runs that can be."""
        if self.on_stop is not None:
            stop, self.on_stop = self.on_stop, None
            stop()

    def lose(self, why: str) -> None:
        """Somebody else may hold it now: stop the handler, send nothing."""
        if self.lost is None:
            self.lost = why
            self.stop()

    def cancel(self) -> None:
        """Somebody wants the execution stopped."""
        if not self.cancel_requested:
            self.cancel_requested = True
            self.stop()

    def abandon(self) -> None:
        """The grace time of a shutdown is over."""
        self.abandoned = True
        self.stop()


class LeaseRenewer:
    """All leases that are held, by lease id."""

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
        """The lease has ended: no more renewals."""
        self.held.pop(lease.message.lease_id, None)

    async def renew_for_ever(self) -> None:
        """Renew everything every ttl/3."""
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
        """Push the lease's end on. Raises what the keeper says, and takes note of it."""
        message = lease.message
        request = LeaseRenew(
            execution_id=message.execution_id,
            attempt_index=message.attempt_index,
            lease_id=message.lease_id,
            lease_epoch=message.lease_epoch,
            lease_ttl_ms=self._ttl_ms,
        )
        # Counted from before it left: the local end never lies after the true one.
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
