"""flow.request_cancel and flow.cancel.

The flow itself is cancelled in one step. Its members are first listed, for the reply, and then stopped: slice by slice,
so that no call blocks Valkey for long. If this process dies on the way, the due loop of any instance goes on.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from penstock.bus.calls import Call
from penstock.bus.connection import Connection
from penstock.machine import Machine
from penstock.machine.ops import cancel_reconciler as ops
from penstock.messages.cancellation import FlowCancel, FlowCancelled, FlowRequestCancel
from penstock.runtime.parking import Parking

PAGE: Final = 1000
"""Member ids that one call reads, and that a repeated flow.cancel is answered with at most."""
PAGE_OF_LEFT: Final = 100
"""Members that one call looks at to see which still run."""
MARGIN_BYTES: Final = 4096
"""The part of a message that is not for member ids: the headers and the rest of the reply."""


class Flows:
    """Handlers that cancel flows; their verbs take no batches."""

    def __init__(
        self,
        machine: Machine,
        parking: Parking,
        nats: Connection,
        spawn: Callable[[Coroutine[Any, Any, Any]], Any],
    ) -> None:
        self._machine = machine
        self._parking = parking
        self._nats = nats
        self._spawn = spawn

    async def request_cancel(self, call: Call[FlowRequestCancel]) -> Sequence[Any]:
        return [await self._machine.run(ops.FlowRequestCancel.of(call.items[0]))]

    async def cancel(self, call: Call[FlowCancel]) -> Sequence[Any]:
        item = call.items[0]
        begun = await self._machine.run(ops.FlowCancel.of(item))
        progress = begun if begun.listed else await self._walk(item.flow_id, listed_only=True)
        most = self._fitting(item.flow_id)
        members, total = await self._members(item.flow_id, min(most, PAGE) if begun.again else most)
        reply = FlowCancelled(
            result="cancelled",
            status=begun.status,
            cancellation_policy=begun.policy or item.policy,
            member_execution_ids=members,
        )
        if item.wait:
            if progress.more and not begun.again:
                progress = await self._walk(item.flow_id)
            if left := await self._wait(item, progress, most):
                reply.result = "partially_cancelled"
                reply.failed_member_execution_ids = left
        elif not begun.again:
            if progress.more:
                self._spawn(self._walk(item.flow_id))
            if members:
                reply.result = "cancellation_scheduled"
        if reply.result == "cancellation_scheduled" or total > len(members):
            reply.member_count = total
        return [reply]

    async def _walk(self, flow_id: str, *, listed_only: bool = False) -> ops.Progress:
        """List and stop the flow's members; with `listed_only`, end when all are listed."""
        while True:
            progress = await self._machine.run(ops.FlowCancelStep(flow_id=flow_id))
            if not progress.more or (listed_only and progress.listed):
                return progress

    async def _wait(self, item: FlowCancel, progress: ops.Progress, most: int) -> list[str]:
        """Wait until all members have stopped. Return those that have not, at most `most`."""
        if not _stopped(progress):
            look = ops.FlowCancelProgress(flow_id=item.flow_id)
            progress = await self._parking.until(
                item.flow_id, item.wait_ms / 1000, lambda: self._machine.run(look), _stopped
            )
        if _stopped(progress):
            return []
        left, _ = await self._members(item.flow_id, most, left=True)
        return left

    async def _members(self, flow_id: str, most: int, *, left: bool = False) -> tuple[list[str], int]:
        """Return the members that were to be stopped, and their number; with `left` only those that still run."""
        ids: list[str] = []
        offset, size = 0, PAGE_OF_LEFT if left else PAGE
        while True:
            page = await self._machine.run(
                ops.FlowCancelMembers(flow_id=flow_id, offset=offset, limit=size, left=left)
            )
            ids += page.ids
            offset += size
            if not page.more or len(ids) >= most:
                return ids[:most], page.total

    def _fitting(self, flow_id: str) -> int:
        """Return how many ids of this flow's members fit into one half of a reply, which may have two lists of them."""
        half = (self._nats.max_payload - MARGIN_BYTES) // 2
        return half // (len(flow_id) + len('"",'))


def _stopped(progress: ops.Progress) -> bool:
    return not progress.more and not progress.left
