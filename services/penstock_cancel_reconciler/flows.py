"""flow.request_cancel and flow.cancel.

The flow itself is cancelled in one step. Its members are stopped slice by slice, so that no call holds
Valkey for long; if this process dies on the way, the due loop of any instance goes on.
"""

from collections.abc import Sequence
from typing import Any, Final

from penstock.bus.endpoints import Call
from penstock.ids import partition_of
from penstock.messages.cancellation import FlowCancel, FlowCancelled, FlowRequestCancel
from penstock.messages.flows import Flow
from penstock.store import Store
from penstock_cancel_reconciler.waits import Waits

SLICE: Final = 500
"""Member ids of one look."""


class Flows:
    """Handlers about flows; their verbs take no batches."""

    def __init__(self, store: Store, waits: Waits) -> None:
        self._store = store
        self._waits = waits

    async def request_cancel(self, call: Call[FlowRequestCancel]) -> Sequence[Any]:
        item = call.items[0]
        return [Flow.of(await self._store.call(partition_of(item.flow_id), "flow_request_cancel", item))]

    async def cancel(self, call: Call[FlowCancel]) -> Sequence[Any]:
        item = call.items[0]
        begun = await self._begin(item)
        if "status" not in begun:
            return [await self._stop_members(item, begun)]
        if begun.get("more"):
            # Another request is stopping the members: only when all were looked at does the flow know them.
            await self._walk(item.flow_id)
            begun = await self._begin(item)
        return [
            FlowCancelled(
                result="cancelled",
                status=begun["status"],
                cancellation_policy=begun.get("policy") or item.policy,
                member_execution_ids=list(begun["ids"]),
            )
        ]

    async def _begin(self, item: FlowCancel) -> dict[str, Any]:
        return await self._ask(
            "flow_cancel",
            item.flow_id,
            policy=item.policy,
            reason=item.reason,
            grace_ms=item.grace_ms,
            expected_revision=item.expected_revision,
        )

    async def _walk(self, flow_id: str) -> dict[str, Any]:
        """Looks at all members that nobody has looked at yet. Returns how many of the flow's go on."""
        while True:
            progress = await self._ask("flow_cancel_step", flow_id)
            if not progress["more"]:
                return progress

    async def _stop_members(self, item: FlowCancel, progress: dict[str, Any]) -> FlowCancelled:
        """Stops the members of a flow that this request has cancelled."""
        if progress["more"]:
            progress = await self._walk(item.flow_id)
        members = await self._members(item.flow_id, left=False)
        reply = FlowCancelled(
            result="cancelled", cancellation_policy=item.policy, member_execution_ids=members
        )
        if members and not item.wait:
            reply.result = "cancellation_scheduled"
            reply.member_count = len(members)
        elif progress["left"] and not await self._waits.wait(item.flow_id, item.wait_ms / 1000):
            left = await self._members(item.flow_id, left=True)
            if left:
                reply.result = "partially_cancelled"
                reply.failed_member_execution_ids = left
        return reply

    async def _members(self, flow_id: str, *, left: bool) -> list[str]:
        """The members that were to be stopped; with `left` those that go on."""
        ids: list[str] = []
        offset = 0
        while True:
            page = await self._ask("flow_cancel_members", flow_id, offset=offset, limit=SLICE, left=left)
            ids += page["ids"]
            if not page["more"]:
                return ids
            offset += SLICE

    async def _ask(self, op: str, flow_id: str, **args: Any) -> dict[str, Any]:
        return await self._store.call(partition_of(flow_id), op, {"flow_id": flow_id, **args})
