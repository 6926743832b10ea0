"""lease.complete and .fail: how an attempt ends."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.endpoints import Call
from penstock.messages.leases import LeaseComplete, LeaseFail
from penstock.store import Store
from penstock_lease_keeper.leases import fenced


class Outcomes:
    """Handlers that consume a lease; each may be repeated with the same fence."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def complete(self, call: Call[LeaseComplete]) -> Sequence[Any]:
        return await fenced(self._store, "complete", call.items)

    async def fail(self, call: Call[LeaseFail]) -> Sequence[Any]:
        return await fenced(self._store, "fail", call.items)
