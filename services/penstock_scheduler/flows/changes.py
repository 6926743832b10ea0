"""flow.update_state, .finish and .fail: a controller changes its flow's state. flow.add_execution, .add_dependency
and .set_join: a flow's graph grows while the flow runs.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.bus.calls import Call
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.flow_states import change, checked, merge, patch_of
from penstock.machine.idempotency import digest
from penstock.machine.ops import scheduler as ops
from penstock.machine.references import References
from penstock.machine.specs import new_member
from penstock.messages.flows import (
    Flow,
    FlowAddDependency,
    FlowAddExecution,
    FlowFail,
    FlowFinish,
    FlowSetJoin,
    FlowUpdateState,
)
from penstock_scheduler.flows import graphs
from penstock_scheduler.flows.verbs import whole_graph


class FlowChanges:
    """Handlers that change an existing flow; their verbs take no batches."""

    def __init__(self, machine: Machine, references: References, payload_limit: int) -> None:
        self._machine = machine
        self._references = references
        self._limit = payload_limit

    # -- its state ----------------------------------------------------------------------------------

    async def update_state(self, call: Call[FlowUpdateState]) -> Sequence[Any]:
        item = call.items[0]
        return [await self._change(item, ops.FlowUpdateState.of(item))]

    async def finish(self, call: Call[FlowFinish]) -> Sequence[Any]:
        item = call.items[0]
        return [await self._change(item, ops.FlowEnd.of(item, to="finished"))]

    async def fail(self, call: Call[FlowFail]) -> Sequence[Any]:
        item = call.items[0]
        return [await self._change(item, ops.FlowEnd.of(item, to="failed"), item.reason)]

    async def _change(
        self, item: FlowUpdateState, op: ops.FlowUpdateState | ops.FlowEnd, failure: str | None = None
    ) -> Flow:
        """Run `op` with the flow's new state: the old one with the request's patch and the failure merged in."""
        patch = patch_of(item)

        def merged(seen: ops.StateSeen) -> str:
            state = seen.state if patch is None else merge(seen.state, patch)
            if failure is not None:
                failed = {"failure": {"reason": failure, "at": seen.now}}
                state = merge(state, msgspec.json.encode(failed).decode())
            return checked(state, self._limit)

        async def write(state: str | None, revision: int | None) -> Flow:
            op.state, op.expected_revision = state, revision
            return await self._machine.run(op)

        untouched = patch is None and failure is None
        return await change(self._machine, item, None if untouched else merged, write)

    # -- its graph ----------------------------------------------------------------------------------

    async def add_execution(self, call: Call[FlowAddExecution]) -> Sequence[Any]:
        item, machine = call.items[0], self._machine
        graphs.check(item.members, item.edges, item.joins, more=True)
        await self._references.check(item.members)
        flow = await machine.run(ops.FlowGet(flow_id=item.flow_id))
        partition = partition_of(item.flow_id)
        members = [
            new_member(
                member, machine.new_id(partition), flow.namespace, machine.partitions, item.traceparent
            )
            for member in item.members
        ]
        return [await machine.run(ops.FlowAdd.of(item, members=members, digest=digest(item)))]

    async def add_dependency(self, call: Call[FlowAddDependency]) -> Sequence[Any]:
        item = call.items[0]
        graph = await whole_graph(self._machine, item.flow_id)
        if graph["graph_revision"] == item.graph_revision:
            graphs.check_edge(graph["edges"], item.from_, item.to)
        return [await self._machine.run(ops.FlowConnect.of(item))]

    async def set_join(self, call: Call[FlowSetJoin]) -> Sequence[Any]:
        item = call.items[0]
        graphs.check_policy(item.policy, item.k)
        return [await self._machine.run(ops.FlowSetJoin.of(item))]
