"""lease.start, .renew, .release, .progress: a worker speaks of its lease; .revoke: an operator does."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.endpoints import Call
from penstock.ids import partition_of
from penstock.messages.common import Fence
from penstock.messages.leases import LeaseProgress, LeaseRelease, LeaseRenew, LeaseRevoke, LeaseStart
from penstock.store import Store


async def fenced(store: Store, op: str, items: Sequence[Fence | LeaseRevoke]) -> Sequence[Any]:
    """One command for each request, in the partition that its execution names."""
    return await store.call_many([(partition_of(item.execution_id), op, item) for item in items])


class Leases:
    """Handlers about a lease's life."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def start(self, call: Call[LeaseStart]) -> Sequence[Any]:
        return await fenced(self._store, "start", call.items)

    async def renew(self, call: Call[LeaseRenew]) -> Sequence[Any]:
        return await fenced(self._store, "renew", call.items)

    async def release(self, call: Call[LeaseRelease]) -> Sequence[Any]:
        return await fenced(self._store, "release", call.items)

    async def revoke(self, call: Call[LeaseRevoke]) -> Sequence[Any]:
        return await fenced(self._store, "revoke", call.items)

    async def progress(self, call: Call[LeaseProgress]) -> Sequence[Any]:
        return await fenced(self._store, "progress", call.items)
