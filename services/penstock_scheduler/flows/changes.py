"""flow.update_state, .finish, .fail: a flow's controller moves it on; .add_execution, .add_dependency, .set_join:
its graph grows while it runs.

JSON is merged here, never in the state machine: what was read is written back only at the revision it was read at.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError, make
from penstock.ids import partition_of
from penstock.machine import Machine
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

TRIES: Final = 2
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.encode


def merge(state: str, patch: str) -> str:
    """A shallow merge; a patch that is not an object replaces, one that is replaces what is none.

    Values pass byte for byte, and keys keep their order.
    """
    if not patch.lstrip().startswith("{"):
        return patch
    merged = _object(state) if state.lstrip().startswith("{") else {}
    merged.update(_object(patch))
    return _encode(merged).decode()


class FlowChanges:
    """Handlers that change a flow which exists; their verbs take no batches."""

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
        """The operation, with the state that it leads to. Without a patch, there is nothing to read."""
        if item.state_patch is UNSET and failure is None:
            return await self._machine.run(op)
        tries = TRIES if item.expected_revision is None else 1
        while True:
            seen = await self._machine.run(ops.FlowState(flow_id=item.flow_id))
            op.state = self._merged(seen, item, failure)
            if item.expected_revision is None:
                op.expected_revision = seen.revision
            elif item.expected_revision != seen.revision:
                op.state = None  # not what the caller knows: the operation says so
            try:
                return await self._machine.run(op)
            except PenstockError as error:
                tries -= 1
                if error.code != "revision_mismatch" or not tries:
                    raise

    def _merged(self, seen: ops.StateSeen, item: FlowUpdateState, failure: str | None) -> str:
        state = seen.state
        if item.state_patch is not UNSET:
            # By now a payload is its JSON text, or None for null.
            state = merge(state, "null" if item.state_patch is None else str(item.state_patch))
        if failure is not None:
            state = merge(state, _encode({"failure": {"reason": failure, "at": seen.now}}).decode())
        size = len(state.encode())
        if size > self._limit:
            raise make(
                "payload_too_large",
                f"state would have {size} bytes; the limit is {self._limit}",
                detail={"field": "state", "limit": self._limit, "size": size},
            )
        return state

    # -- its graph ----------------------------------------------------------------------------------

    async def add_execution(self, call: Call[FlowAddExecution]) -> Sequence[Any]:
        item, machine = call.items[0], self._machine
        graphs.check(item.members, item.edges, item.joins, more=True)
        await self._references.check(item.members)
        flow = await machine.run(ops.FlowGet(flow_id=item.flow_id))
        partition = partition_of(item.flow_id)
        members = [
            new_member(member, machine.new_id(partition), flow.namespace, machine.partitions)
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
