"""quota.create, .get and .delete. The rules stand in lua/limit/limits.lua."""

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import invalid
from penstock.ids import partition_for, partition_of, uuid7
from penstock.messages.limits import QuotaCreate, QuotaGet
from penstock.store import Store
from penstock.store.references import References
from penstock_scheduler.idempotency import created, digest


class Quotas:
    """Handlers about quotas."""

    def __init__(self, store: Store, references: References) -> None:
        self._store = store
        self._references = references

    async def create(self, call: Call[QuotaCreate]) -> Sequence[Any]:
        item = call.items[0]
        if item.max_per_window is None and item.max_concurrent is None:
            raise invalid("max_per_window", "give max_per_window with window_ms, or max_concurrent, or both")
        if (item.max_per_window is None) != (item.window_ms is None):
            raise invalid("window_ms", "max_per_window and window_ms go together")
        key = item.idempotency_key
        partition = partition_for(f"{item.namespace}:{key}" if key else uuid7(), self._store.partitions)
        args = {
            **msgspec.structs.asdict(item),
            "id": self._store.new_id(partition),
            "digest": key and digest(item),
        }
        args["namespace"] = None if item.namespace == "default" else item.namespace
        return [created(_view(await self._store.call(partition, "quota_create", args)))]

    async def get(self, call: Call[QuotaGet]) -> Sequence[Any]:
        item = call.items[0]
        return [_view(await self._store.call(partition_of(item.quota_id), "quota_get", item))]

    async def delete(self, call: Call[QuotaGet]) -> Sequence[Any]:
        item = call.items[0]
        self._references.forget("quota", item.quota_id)
        return [_view(await self._store.call(partition_of(item.quota_id), "quota_delete", item))]


def _view(quota: dict[str, Any]) -> dict[str, Any]:
    """All fields, null where there is nothing."""
    return {"max_per_window": None, "window_ms": None, "max_concurrent": None, **quota}
