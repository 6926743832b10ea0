"""The verbs flow.observe and flow.steps."""

from collections.abc import Sequence
from typing import Any, Final

from penstock.bus.calls import Call
from penstock.machine import Machine
from penstock.machine.ops import mirror_observer as ops
from penstock.machine.pages import PAGE_BYTES
from penstock.messages.flows import FlowSteps, Observe, Step

SLICE: Final = 200
"""Most steps that one store call reads, so that no call holds Valkey for long."""


class Steps:
    """Handlers of the verbs about steps."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def observe(self, call: Call[Observe]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Observe.of(item) for item in call.items])

    async def list(self, call: Call[FlowSteps]) -> Sequence[Any]:
        item = call.items[0]
        items: list[Step] = []
        room = PAGE_BYTES
        after: int | None = int(item.cursor or 0)
        while after is not None and len(items) < item.limit and room > 0:
            limit = min(SLICE, item.limit - len(items))
            found = await self._machine.run(
                ops.Steps(flow_id=item.flow_id, after=after, limit=limit, bytes=room)
            )
            items += found.items
            # The codec has turned each payload into its JSON text (None for null).
            room -= sum(len(step.raw_result or "") for step in found.items)
            after = found.after
        return [{"items": items, "cursor": None if after is None else str(after)}]
