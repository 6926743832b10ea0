"""quota.create, .get and .delete. The rules are in lua/limit/limits.lua."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.errors import invalid
from penstock.machine import Machine
from penstock.machine.idempotency import digest, home_for
from penstock.machine.ops import scheduler as ops
from penstock.machine.references import References
from penstock.messages.limits import QuotaCreate, QuotaGet


class Quotas:
    """Handlers for quotas."""

    def __init__(self, machine: Machine, references: References) -> None:
        self._machine = machine
        self._references = references

    async def create(self, call: Call[QuotaCreate]) -> Sequence[Any]:
        item = call.items[0]
        if item.max_per_window is None and item.max_concurrent is None:
            raise invalid("max_per_window", "give max_per_window with window_ms, or max_concurrent, or both")
        if (item.max_per_window is None) != (item.window_ms is None):
            raise invalid("window_ms", "max_per_window and window_ms go together")
        partition = home_for(item.namespace, item.idempotency_key, self._machine.partitions)
        create = ops.QuotaCreate.of(item, id=self._machine.new_id(partition), digest=digest(item))
        return [await self._machine.run(create)]

    async def get(self, call: Call[QuotaGet]) -> Sequence[Any]:
        return [await self._machine.run(ops.QuotaGet.of(call.items[0]))]

    async def delete(self, call: Call[QuotaGet]) -> Sequence[Any]:
        item = call.items[0]
        self._references.forget(item.quota_id)
        return [await self._machine.run(ops.QuotaDelete.of(item))]
