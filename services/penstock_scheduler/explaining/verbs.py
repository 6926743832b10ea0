"""execution.explain: gather the facts from every partition that keeps some of them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.machine.tokens import home_of
from penstock.messages.control import ExecutionExplain
from penstock_scheduler.explaining.ready import Worker
from penstock_scheduler.explaining.sentences import explain

Registry = Callable[[], Awaitable[Sequence[Worker] | None]]


async def _no_registry() -> None:
    return None


class Explanations:
    """The handler of execution.explain. `registry` returns the registered workers, or None without a registry."""

    def __init__(self, machine: Machine, registry: Registry = _no_registry) -> None:
        self._machine = machine
        self._registry = registry

    async def explain(self, call: Call[ExecutionExplain]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._explain, call.items), return_exceptions=True)

    async def _explain(self, item: ExecutionExplain) -> dict[str, Any]:
        home = partition_of(item.execution_id)
        facts = await self._machine.run(ops.Explain(execution_id=item.execution_id))
        if remote := facts.pop("remote", None):
            found = await self._machine.run_many(
                [ops.LimitUse(token=token) for token in remote], [home_of(token) for token in remote]
            )
            limits = [each for each in found if not isinstance(each, PenstockError)]
            facts["limits"] = [*(facts.get("limits") or ()), *limits]
        if queue := facts.pop("queue", None):
            others = [p for p in range(self._machine.partitions) if p != home]
            counts = await self._machine.run_many([ops.Ahead(**queue)] * len(others), others)
            facts["ahead"] = (facts.get("ahead") or 0) + sum(
                each.ahead for each in counts if not isinstance(each, PenstockError)
            )
        workers = await self._registry() if facts["state"] == "ready" else None
        return explain(facts, workers)
