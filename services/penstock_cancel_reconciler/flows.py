"""flow.request_cancel and flow.cancel.

The flow itself is cancelled in one step. Its members are stopped slice by slice, so that no call blocks
Valkey for long. If this process dies on the way, the due loop of any instance stops the remaining members.
"""

from collections.abc import Sequence
from typing import Any, Final

from penstock.bus.endpoints import Call
from penstock.machine import Machine
from penstock.machine.ops import cancel_reconciler as ops
from penstock.messages.cancellation import FlowCancel, FlowCancelled, FlowRequestCancel
from penstock_cancel_reconciler.waits import Waits

SLICE: Final = 500
"""Member ids that one op returns."""


class Flows:
    """Handlers that cancel flows; their verbs take no batches."""

    def __init__(self, machine: Machine, waits: Waits) -> None:
        self._machine = machine
        self._waits = waits

    async def request_cancel(self, call: Call[FlowRequestCancel]) -> Sequence[Any]:
        return [await self._machine.run(ops.FlowRequestCancel.of(call.items[0]))]

    async def cancel(self, call: Call[FlowCancel]) -> Sequence[Any]:
        item = call.items[0]
        begin = ops.FlowCancel.of(item)
        begun = await self._machine.run(begin)
        if begun.status is None:
            return [await self._stop_members(item, ops.Progress(begun.more, begun.left))]
        if begun.more:
            # Another request is still stopping the members; the flow's list of them is complete after the walk.
            await self._walk(item.flow_id)
            begun = await self._machine.run(begin)
        return [
            FlowCancelled(
                result="cancelled",
                status=begun.status or "cancelled",
                cancellation_policy=begun.policy or item.policy,
                member_execution_ids=begun.ids,
            )
        ]

    async def _walk(self, flow_id: str) -> ops.Progress:
        """Stop all members not visited yet. The returned `left` counts the members that have not stopped."""
        while True:
            progress = await self._machine.run(ops.FlowCancelStep(flow_id=flow_id))
            if not progress.more:
                return progress

    async def _stop_members(self, item: FlowCancel, progress: ops.Progress) -> FlowCancelled:
        """Stop the members of a flow that this request has cancelled."""
        if progress.more:
            progress = await self._walk(item.flow_id)
        members = await self._members(item.flow_id, left=False)
        reply = FlowCancelled(
            result="cancelled", cancellation_policy=item.policy, member_execution_ids=members
        )
        if members and not item.wait:
            reply.result = "cancellation_scheduled"
            reply.member_count = len(members)
        elif progress.left and not await self._waits.wait(item.flow_id, item.wait_ms / 1000):
            left = await self._members(item.flow_id, left=True)
            if left:
                reply.result = "partially_cancelled"
                reply.failed_member_execution_ids = left
        return reply

    async def _members(self, flow_id: str, *, left: bool) -> list[str]:
        """Return the members that were to be stopped; with `left` only those that have not stopped yet."""
        ids: list[str] = []
        offset = 0
        while True:
            page = await self._machine.run(
                ops.FlowCancelMembers(flow_id=flow_id, offset=offset, limit=SLICE, left=left)
            )
            ids += page.ids
            if not page.more:
                return ids
            offset += SLICE
