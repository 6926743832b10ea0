"""lease.complete, .fail, .cancel, .delay and .await_children: how a lease ends by its worker's word."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import make
from penstock.ids import partition_of
from penstock.messages.leases import (
    LeaseAwaitChildren,
    LeaseCancel,
    LeaseComplete,
    LeaseDelay,
    LeaseFail,
)
from penstock.store import Store
from penstock.store.references import References
from penstock.store.specs import limit_of, normalize
from penstock_lease_keeper.leases import fenced


class Outcomes:
    """Handlers that consume a lease; each may be repeated with the same fence."""

    def __init__(self, store: Store, references: References) -> None:
        self._store = store
        self._references = references

    async def complete(self, call: Call[LeaseComplete]) -> Sequence[Any]:
        if not any(item.children for item in call.items):
            return await fenced(self._store, "complete", call.items)
        # All of one loop tick, so that they still leave as one batch.
        return await asyncio.gather(*map(self._complete, call.items), return_exceptions=True)

    async def _complete(self, item: LeaseComplete) -> dict[str, Any]:
        partition = partition_of(item.execution_id)
        if not item.children:
            return await self._store.call(partition, "complete", item)
        for index, error in (await self._references.missing(item.children)).items():
            raise make(error.code, f"children[{index}]: {error.message}", detail=error.detail)
        return await self._store.call(partition, "complete", await self._with_children(partition, item))

    async def _with_children(self, partition: int, item: LeaseComplete) -> dict[str, Any]:
        """The command, each child with its id. A child is of its parent's namespace."""
        namespace = "default"
        if any(child.concurrency_key is not None for child in item.children):
            record = await self._store.call(partition, "namespace", {"execution_id": item.execution_id})
            namespace = record["namespace"]
        children: list[dict[str, Any]] = []
        for child in item.children:
            normalize(child)
            children.append(
                {
                    **msgspec.structs.asdict(child),
                    "execution_id": self._store.new_id(partition),
                    "limit": limit_of(child, namespace, self._store.partitions),
                }
            )
        return {**msgspec.structs.asdict(item), "children": children}

    async def fail(self, call: Call[LeaseFail]) -> Sequence[Any]:
        return await fenced(self._store, "fail", call.items)

    async def cancel(self, call: Call[LeaseCancel]) -> Sequence[Any]:
        return await fenced(self._store, "cancel", call.items)

    async def delay(self, call: Call[LeaseDelay]) -> Sequence[Any]:
        return await fenced(self._store, "delay", call.items)

    async def await_children(self, call: Call[LeaseAwaitChildren]) -> Sequence[Any]:
        return await fenced(self._store, "await_children", call.items)
