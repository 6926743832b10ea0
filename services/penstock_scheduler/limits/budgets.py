"""budget.create, .get, .replenish, .reset and .delete. The rules are in lua/limit/budgets.lua."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.errors import invalid
from penstock.machine import Machine
from penstock.machine.idempotency import digest, home_for
from penstock.machine.ops import scheduler as ops
from penstock.machine.references import References
from penstock.messages.limits import BudgetCreate, BudgetGet, BudgetReplenish


class Budgets:
    """Handlers for budgets; their verbs take no batches."""

    def __init__(self, machine: Machine, references: References) -> None:
        self._machine = machine
        self._references = references

    async def create(self, call: Call[BudgetCreate]) -> Sequence[Any]:
        item = call.items[0]
        for name, limits in item.dimensions.items():
            if limits.soft is not None and limits.soft > limits.hard:
                raise invalid(f"dimensions.{name}.soft", "is above the hard limit")
        partition = home_for(item.namespace, item.idempotency_key, self._machine.partitions)
        create = ops.BudgetCreate.of(item, id=self._machine.new_id(partition), digest=digest(item))
        return [await self._machine.run(create)]

    async def get(self, call: Call[BudgetGet]) -> Sequence[Any]:
        return [await self._machine.run(ops.BudgetGet.of(call.items[0]))]

    async def replenish(self, call: Call[BudgetReplenish]) -> Sequence[Any]:
        item = call.items[0]
        return [await self._machine.run(ops.BudgetReplenish.of(item, digest=digest(item)))]

    async def reset(self, call: Call[BudgetGet]) -> Sequence[Any]:
        return [await self._machine.run(ops.BudgetReset.of(call.items[0]))]

    async def delete(self, call: Call[BudgetGet]) -> Sequence[Any]:
        item = call.items[0]
        self._references.forget(item.budget_id)
        return [await self._machine.run(ops.BudgetDelete.of(item))]
