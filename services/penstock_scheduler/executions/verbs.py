"""execution.create, .get, .list and .history."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from penstock.bus.calls import Call
from penstock.errors import PenstockError, invalid
from penstock.ids import partition_for, partition_of
from penstock.machine import Machine, pages
from penstock.machine.idempotency import digest, home_for, once
from penstock.machine.ops import scheduler as ops
from penstock.machine.references import References
from penstock.machine.specs import normalize
from penstock.machine.tokens import limit_of
from penstock.messages.executions import (
    ExecutionCreate,
    ExecutionCreated,
    ExecutionGet,
    ExecutionHistory,
    ExecutionList,
)
from penstock_scheduler.handing_out.eager import Eager

_SEQS: Final = 10**6
"""A history cursor is a byte offset times this, plus the seq of the event before that offset."""
_EVENT: Final = ("seq", "event", "at", "actor", "from", "to", "reason", "data")


class Executions:
    """Handlers for executions; each takes a list of requests and returns a list of results."""

    def __init__(self, machine: Machine, references: References, eager: Eager) -> None:
        self._machine = machine
        self._references = references
        self._eager = eager

    async def create(self, call: Call[ExecutionCreate]) -> Sequence[Any]:
        wrong = await self._references.missing(call.items)
        wrong |= {index: error for index, item in enumerate(call.items) if (error := _check(item))}
        if not wrong:
            return await self._create_all(call.items)
        good = [item for index, item in enumerate(call.items) if index not in wrong]
        created = iter(await self._create_all(good))
        return [wrong.get(index) or next(created) for index in range(len(call.items))]

    async def create_awaited(
        self, item: ExecutionCreate, reply: str | None
    ) -> ExecutionCreated | PenstockError:
        """Create one execution. At its end its record is sent to the subject `reply`, unless it is a duplicate."""
        wrong = await self._references.missing([item])
        if error := wrong.get(0) or _check(item):
            return error
        if _is_keyed_child(item):
            return await self._create_keyed_child(item, reply)
        [made] = await self._eager.create([self._create(item, reply)])
        return made

    async def _create_all(self, items: Sequence[ExecutionCreate]) -> Sequence[Any]:
        keyed = [item for item in items if _is_keyed_child(item)]
        if not keyed:
            return await self._eager.create([self._create(item) for item in items])
        others = [item for item in items if not _is_keyed_child(item)]
        made, created = await asyncio.gather(
            asyncio.gather(*map(self._create_keyed_child, keyed), return_exceptions=True),
            self._eager.create([self._create(item) for item in others]),
        )
        first, rest = iter(made), iter(created)
        return [next(first if _is_keyed_child(item) else rest) for item in items]

    async def _create_keyed_child(self, item: ExecutionCreate, reply: str | None = None) -> ExecutionCreated:
        """Create `item` in the partition of its parent, flow or unique key; its idempotency key may be in another."""
        create = self._create(item, reply)
        create.idempotency_key = create.digest = None

        async def make(execution_id: str, again: bool) -> ExecutionCreated:
            create.id, create.again = execution_id, again
            return await self._machine.run(create)

        return await once(
            self._machine, "execution", item.namespace, item, create.home(), make, ExecutionCreated
        )

    def _create(self, item: ExecutionCreate, reply: str | None = None) -> ops.Create:
        normalize(item)
        machine = self._machine
        if owner := item.flow_id or item.parent_id:
            partition = partition_of(owner)
        elif item.unique_key is not None:
            partition = partition_for(f"{item.namespace}:{item.unique_key}", machine.partitions)
        else:
            partition = home_for(item.namespace, item.idempotency_key, machine.partitions)
        return ops.Create(
            id=machine.new_id(partition),
            namespace=item.namespace,
            spec=item,
            limit=limit_of(item, item.namespace, machine.partitions),
            parent_close=None if item.parent_close == "cancel" else item.parent_close,
            unique_key=item.unique_key,
            on_conflict=None if item.unique_key is None else item.on_conflict,
            idempotency_key=item.idempotency_key,
            digest=digest(item),
            reply=reply,
        )

    async def get(self, call: Call[ExecutionGet]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Get.of(item) for item in call.items])

    async def list(self, call: Call[ExecutionList]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._list, call.items), return_exceptions=True)

    async def _list(self, item: ExecutionList) -> dict[str, Any]:
        if item.flow_id is not None:
            return await pages.one(self._machine, ops.List, item, "execution_id", partition_of(item.flow_id))
        return await pages.newest(self._machine, ops.List, item, "execution_id")

    async def history(self, call: Call[ExecutionHistory]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._history, call.items), return_exceptions=True)

    async def _history(self, item: ExecutionHistory) -> dict[str, Any]:
        begun, seq = divmod(int(item.cursor or 0), _SEQS)
        offset, more = begun, True
        items: list[list[Any]] = []
        while more and len(items) < item.limit and offset - begun < pages.PAGE_BYTES:
            asked = item.limit - len(items)
            reply = await self._machine.run(
                ops.History(execution_id=item.execution_id, seq=seq, offset=offset, limit=asked)
            )
            offset, more, *events = reply
            items += events
            seq += len(events)
        return {
            "items": [_event(event) for event in items],
            "cursor": str(offset * _SEQS + seq) if more else None,
        }


def _is_keyed_child(item: ExecutionCreate) -> bool:
    """Whether `item` has an idempotency key, but its parent, flow or unique key decides on the partition."""
    return (
        item.idempotency_key is not None and (item.parent_id or item.flow_id or item.unique_key) is not None
    )


def _check(item: ExecutionCreate) -> PenstockError | None:
    """Return the error of fields that do not fit together, or None."""
    if item.unique_key is not None and (item.parent_id or item.flow_id) is not None:
        return invalid("unique_key", "goes neither with parent_id nor with flow_id: these say where it lives")
    if item.unique_key is None and item.on_conflict != "existing":
        return invalid("on_conflict", "goes with unique_key only")
    if item.parent_id is None and item.parent_close != "cancel":
        return invalid("parent_close", "goes with parent_id only")
    return None


def _event(kept: Sequence[Any]) -> dict[str, Any]:
    """Return a stored history event by field names. A stored "" stands for None."""
    return {name: None if value == "" else value for name, value in zip(_EVENT, kept, strict=True)}
