"""budget.create, .get, .replenish, .reset and .delete. The rules stand in lua/limit/budgets.lua."""

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import make
from penstock.ids import partition_for, partition_of, uuid7
from penstock.messages.limits import BudgetCreate, BudgetGet, BudgetReplenish
from penstock.store import Store
from penstock.store.references import References
from penstock_scheduler.idempotency import created, digest


class Budgets:
    """Handlers about budgets; their verbs take no batches."""

    def __init__(self, store: Store, references: References) -> None:
        self._store = store
        self._references = references

    async def create(self, call: Call[BudgetCreate]) -> Sequence[Any]:
        item = call.items[0]
        for name, limits in item.dimensions.items():
            if limits.soft is not None and limits.soft > limits.hard:
                field = f"dimensions.{name}.soft"
                raise make("invalid_request", f"{field}: is above the hard limit", detail={"field": field})
        key = item.idempotency_key
        partition = partition_for(f"{item.namespace}:{key}" if key else uuid7(), self._store.partitions)
        args = {
            **msgspec.structs.asdict(item),
            "id": self._store.new_id(partition),
            "digest": key and digest(item),
        }
        return [created(_view(await self._store.call(partition, "budget_create", args)))]

    async def get(self, call: Call[BudgetGet]) -> Sequence[Any]:
        return await self._ask("budget_get", call)

    async def replenish(self, call: Call[BudgetReplenish]) -> Sequence[Any]:
        item = call.items[0]
        args = {**msgspec.structs.asdict(item), "digest": item.idempotency_key and digest(item)}
        budget = await self._store.call(partition_of(item.budget_id), "budget_replenish", args)
        return [created(_view(budget))]

    async def reset(self, call: Call[BudgetGet]) -> Sequence[Any]:
        return await self._ask("budget_reset", call)

    async def delete(self, call: Call[BudgetGet]) -> Sequence[Any]:
        self._references.forget("budget", call.items[0].budget_id)
        return await self._ask("budget_delete", call)

    async def _ask(self, op: str, call: Call[BudgetGet]) -> Sequence[Any]:
        item = call.items[0]
        return [_view(await self._store.call(partition_of(item.budget_id), op, item))]


def _view(budget: dict[str, Any]) -> dict[str, Any]:
    """All fields, null where there is nothing."""
    dimensions = {name: {"soft": None, **use} for name, use in budget["dimensions"].items()}
    return {"reset_every_ms": None, "reset_at": None, **budget, "dimensions": dimensions}
