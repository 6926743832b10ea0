"""Usage reports reach their budget once, whatever happens on the way."""

import asyncio
import time

from penstock import errors, verbs
from penstock.bus.requester import Requester
from penstock.messages.limits import LeaseUsage, Usage
from penstock.worker._leases import Lease

PAUSE_S = 0.1


async def report(requester: Requester, lease: Lease, request: LeaseUsage) -> Usage:
    """Sends a report until it is answered or the lease must have run out; its dedup key makes that safe."""
    while True:
        try:
            return await requester.send(verbs.LEASE_USAGE, request)
        except errors.UnavailableError:
            if time.monotonic() >= lease.expires:
                raise
        await asyncio.sleep(PAUSE_S)
