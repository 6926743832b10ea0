"""Delivers usage reports so that each counts once, in spite of lost messages."""

import asyncio
import time

from penstock import errors, verbs
from penstock.bus.requester import Requester
from penstock.messages.limits import LeaseUsage, Usage
from penstock.worker._leases import Lease

PAUSE_S = 0.1


async def report(requester: Requester, lease: Lease, request: LeaseUsage) -> Usage:
    """Send a report until a reply comes or the lease must have expired. Its dedup key makes repeats safe."""
    while True:
        try:
            return await requester.send(verbs.LEASE_USAGE, request)
        except errors.UnavailableError:
            if time.monotonic() >= lease.expires:
                raise
        await asyncio.sleep(PAUSE_S)
