"""execution.create, .get, .list and .history."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError
from penstock.ids import partition_for, partition_of
from penstock.messages.executions import (
    ExecutionCreate,
    ExecutionGet,
    ExecutionHistory,
    ExecutionList,
)
from penstock.store import Store
from penstock.store.references import References
from penstock.store.specs import limit_of, normalize
from penstock_scheduler import pages, views
from penstock_scheduler.handing_out.work import Places
from penstock_scheduler.idempotency import digest, once


def _is_keyed_child(item: ExecutionCreate) -> bool:
    """Whether it lives with its parent or its flow, and its idempotency key where that is remembered."""
    return item.idempotency_key is not None and (item.parent_id is not None or item.flow_id is not None)


_SEQS: Final = 10**6
"""A cursor in a history is its place, in bytes, times this, plus the number of the event before."""


class Executions:
    """Handlers about executions; lists of requests in, lists of results out."""

    def __init__(self, store: Store, references: References, expect: Callable[[Places], None]) -> None:
        self._store = store
        self._references = references
        self._expect = expect

    async def create(self, call: Call[ExecutionCreate]) -> Sequence[Any]:
        missing = await self._references.missing(call.items)
        if not missing:
            return await self._create_all(call.items)
        good = [item for index, item in enumerate(call.items) if index not in missing]
        created = iter(await self._create_all(good))
        return [missing.get(index) or next(created) for index in range(len(call.items))]

    async def _create_all(self, items: Sequence[ExecutionCreate]) -> Sequence[Any]:
        keyed = [item for item in items if _is_keyed_child(item)]
        if not keyed:
            return await self._make(items)
        others = [item for item in items if not _is_keyed_child(item)]
        made, created = await asyncio.gather(
            asyncio.gather(*map(self._create_keyed_child, keyed), return_exceptions=True),
            self._make(others),
        )
        first, rest = iter(made), iter(created)
        return [next(first if _is_keyed_child(item) else rest) for item in items]

    async def _make(self, items: Sequence[ExecutionCreate]) -> list[dict[str, Any] | PenstockError]:
        creates = [self._create(item) for item in items]
        # Who waits for such work asks in the next step of the loop: behind these commands, and in the same call.
        self._expect({(create[0], item.lane) for create, item in zip(creates, items, strict=True)})
        return await self._store.call_many(creates)

    async def _create_keyed_child(self, item: ExecutionCreate) -> dict[str, Any]:
        """Its parent or its flow says where it lives, its idempotency key where that is remembered."""
        partition, op, args = self._create(item)
        key, body = args.pop("idempotency_key"), args.pop("digest")

        async def make(execution_id: str, again: bool) -> dict[str, Any]:
            return await self._store.call(partition, op, args | {"id": execution_id, "again": again})

        return await once(self._store, "execution", item.namespace, key, body, partition, make)

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
        if item.parent_id is not None:
            partition = partition_of(item.parent_id)
        if item.flow_id is not None:
            partition = partition_of(item.flow_id)
        args["id"] = self._store.new_id(partition)
        return partition, "create", args

    async def get(self, call: Call[ExecutionGet]) -> Sequence[Any]:
        records = await self._store.call_many(
            [(partition_of(item.execution_id), "get", item) for item in call.items]
        )
        return [each if isinstance(each, PenstockError) else views.execution(each) for each in records]

    async def list(self, call: Call[ExecutionList]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._list, call.items), return_exceptions=True)

    async def _list(self, item: ExecutionList) -> dict[str, Any]:
        filters = {
            name: value
            for name in ("namespace", "lane", "kind", "state", "flow_id", "tag")
            if (value := getattr(item, name)) is not None
        }
        if item.flow_id is not None:
            partition = partition_of(item.flow_id)
            records, cursor = await pages.one(
                self._store, partition, "list", filters, "execution_id", item.cursor, item.limit
            )
        else:
            records, cursor = await pages.newest(
                self._store, "list", filters, "execution_id", item.cursor, item.limit
            )
        return {"items": [views.execution(record) for record in records], "cursor": cursor}

    async def history(self, call: Call[ExecutionHistory]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._history, call.items), return_exceptions=True)

    async def _history(self, item: ExecutionHistory) -> dict[str, Any]:
        offset, seq = divmod(int(item.cursor or 0), _SEQS)
        items: list[list[Any]] = []
        size, more = 0, True
        while more and len(items) < item.limit and size < pages.PAGE_BYTES:
            args = {"execution_id": item.execution_id, "seq": seq, "offset": offset}
            args["limit"] = item.limit - len(items)
            packed = await self._store.call_raw(partition_of(item.execution_id), "history", args)
            offset, more, *events = msgspec.msgpack.decode(packed)
            items += events
            seq += len(events)
            size += len(packed)
        return {
            "items": [views.event(event) for event in items],
            "cursor": str(offset * _SEQS + seq) if more else None,
        }
