"""execution.create, .get, .list and .history."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError
from penstock.ids import new_id, partition_for, partition_of
from penstock.messages.executions import (
    ExecutionCreate,
    ExecutionGet,
    ExecutionHistory,
    ExecutionList,
    ExecutionSpec,
)
from penstock.store import Store
from penstock_scheduler import pages, views
from penstock_scheduler.idempotency import digest
from penstock_scheduler.limits import Quotas, limit_of

def normalize(spec: ExecutionSpec) -> None:
    """Capabilities are a set: sorted and unique, so that equal sets share a queue."""
    if spec.capabilities:
        spec.capabilities = sorted(set(spec.capabilities))


class Executions:
    """Handlers about executions; lists of requests in, lists of results out."""

    def __init__(self, store: Store, quotas: Quotas) -> None:
        self._store = store
        self._quotas = quotas

    async def create(self, call: Call[ExecutionCreate]) -> Sequence[Any]:
        wanted = {item.quota_id for item in call.items if item.quota_id}
        missing = await self._quotas.check(wanted) if wanted else {}
        if not missing:
            return await self._store.call_many([self._create(item) for item in call.items])
        good = [item for item in call.items if item.quota_id not in missing]
        created = iter(await self._store.call_many([self._create(item) for item in good]))
        return [missing.get(item.quota_id or "") or next(created) for item in call.items]

    def _create(self, item: ExecutionCreate) -> tuple[int, str, dict[str, Any]]:
        normalize(item)
        spec: Any = item
        if limit := limit_of(item, item.namespace, self._store.partitions):
            spec = {**msgspec.structs.asdict(item), "limit": limit}
        args: dict[str, Any] = {"namespace": item.namespace, "spec": spec}
        if item.idempotency_key is None:
            partitions = self._store.partitions
            partition = random.randrange(partitions) if partitions > 1 else 0
        else:
            # The same key must meet the same memory of keys.
            partition = partition_for(f"{item.namespace}:{item.idempotency_key}", self._store.partitions)
            args["digest"] = digest(item)
            args["idempotency_key"] = item.idempotency_key
        args["id"] = new_id(partition)
        return partition, "create", args

    async def get(self, call: Call[ExecutionGet]) -> Sequence[Any]:
        records = await self._store.call_many(
            [(partition_of(item.execution_id), "get", item) for item in call.items]
        )
        return [each if isinstance(each, PenstockError) else views.execution(each) for each in records]

    async def list(self, call: Call[ExecutionList]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._list, call.items))

    async def _list(self, item: ExecutionList) -> dict[str, Any]:
        filters = {
            name: value
            for name in ("namespace", "lane", "kind", "state", "flow_id")
            if (value := getattr(item, name)) is not None
        }
        records, cursor = await pages.newest(
            self._store, "list", filters, "execution_id", item.cursor, item.limit
        )
        return {"items": [views.execution(record) for record in records], "cursor": cursor}

    async def history(self, call: Call[ExecutionHistory]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._history, call.items), return_exceptions=True)

    async def _history(self, item: ExecutionHistory) -> dict[str, Any]:
        packed = await self._store.call_raw(partition_of(item.execution_id), "history", item)
        events: list[list[Any]] = msgspec.msgpack.decode(packed)
        start = int(item.cursor or 0)
        page = events[start : start + item.limit]
        end = start + len(page)
        return {
            "items": [views.event(event) for event in page],
            "cursor": str(end) if end < len(events) else None,
        }
