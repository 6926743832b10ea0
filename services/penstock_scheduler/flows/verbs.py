"""flow.create, .start, .get, .wait, .list and .graph."""

from collections.abc import Sequence
from typing import Any, Final

from penstock.bus.calls import Call
from penstock.machine import Machine, pages
from penstock.machine.idempotency import digest, home_for
from penstock.machine.ops import scheduler as ops
from penstock.machine.references import References
from penstock.machine.specs import new_member
from penstock.messages.flows import FlowCreate, FlowGet, FlowGraph, FlowList, FlowStart, FlowWait
from penstock.runtime.parking import Parking
from penstock.states import FLOW_TERMINAL
from penstock_scheduler.flows import graphs

GRAPH_SLICE: Final = 200
"""Members read by one op, so that no op blocks Valkey for long."""


class Flows:
    """Handlers that create, start and read flows; their verbs take no batches."""

    def __init__(self, machine: Machine, references: References, parking: Parking) -> None:
        self._machine = machine
        self._references = references
        self._parking = parking

    async def create(self, call: Call[FlowCreate]) -> Sequence[Any]:
        item, machine = call.items[0], self._machine
        graphs.check(item.members, item.edges, item.joins)
        await self._references.check(item.members)
        partition = home_for(item.namespace, item.idempotency_key, machine.partitions)
        members = [
            new_member(
                member, machine.new_id(partition), item.namespace, machine.partitions, item.traceparent
            )
            for member in item.members
        ]
        new_id = machine.new_id(partition)
        flow = await machine.run(ops.FlowCreate.of(item, id=new_id, digest=digest(item), members=members))
        flow.members = flow.members or {}
        return [flow]

    async def start(self, call: Call[FlowStart]) -> Sequence[Any]:
        return [await self._machine.run(ops.FlowStart.of(call.items[0]))]

    async def get(self, call: Call[FlowGet]) -> Sequence[Any]:
        return [await self._machine.run(ops.FlowGet.of(call.items[0]))]

    async def wait(self, call: Call[FlowWait]) -> Sequence[Any]:
        item = call.items[0]
        look = ops.FlowGet(flow_id=item.flow_id)
        return [
            await self._parking.until(
                item.flow_id,
                item.wait_ms / 1000,
                lambda: self._machine.run(look),
                lambda flow: flow.status in FLOW_TERMINAL,
            )
        ]

    async def list(self, call: Call[FlowList]) -> Sequence[Any]:
        item = call.items[0]
        return [await pages.newest(self._machine, ops.FlowList, item, "flow_id")]

    async def graph(self, call: Call[FlowGraph]) -> Sequence[Any]:
        return [await whole_graph(self._machine, call.items[0].flow_id)]


async def whole_graph(machine: Machine, flow_id: str) -> dict[str, Any]:
    """Read a flow's graph in slices; start over if the graph changes meanwhile."""
    while True:
        parts: list[ops.GraphSlice] = []
        while not parts or parts[-1].more:
            offset = len(parts) * GRAPH_SLICE
            parts.append(await machine.run(ops.FlowGraph(flow_id=flow_id, offset=offset, limit=GRAPH_SLICE)))
        if len({part.graph_revision for part in parts}) == 1:
            break
    return {
        "members": [member for part in parts for member in part.members],
        "edges": [edge for part in parts for edge in part.edges],
        "joins": {
            join.key: {"policy": join.policy, "on_satisfied": join.on_satisfied}
            | ({} if join.k is None else {"k": join.k})
            for part in parts
            for join in part.joins
        },
        "graph_revision": parts[0].graph_revision,
    }
