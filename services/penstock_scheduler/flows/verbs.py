"""flow.create, .start, .get, .list and .graph."""

import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from penstock.bus.endpoints import Call
from penstock.ids import partition_for, partition_of
from penstock.messages.flows import FlowCreate, FlowGet, FlowGraph, FlowList, FlowStart, Member
from penstock.store import Store
from penstock.store.references import References
from penstock.store.specs import limit_of, normalize
from penstock_scheduler import pages, views
from penstock_scheduler.flows import graphs
from penstock_scheduler.idempotency import created, digest

GRAPH_SLICE: Final = 200
"""Members of one look at a graph, so that no look holds Valkey for long."""


class Flows:
    """Handlers about flows; their verbs take no batches."""

    def __init__(self, store: Store, references: References) -> None:
        self._store = store
        self._references = references

    async def create(self, call: Call[FlowCreate]) -> Sequence[Any]:
        item = call.items[0]
        graphs.check(item.members, item.edges, item.joins)
        for member in item.members:
            normalize(member)
        for error in (await self._references.missing(item.members)).values():
            raise error
        partitions = self._store.partitions
        args: dict[str, Any] = {}
        if item.idempotency_key is None:
            partition = random.randrange(partitions)
        else:
            partition = partition_for(f"{item.namespace}:{item.idempotency_key}", partitions)
            args["digest"] = digest(item)
        args |= msgspec.structs.asdict(item)
        args["id"] = self._store.new_id(partition)
        args["members"] = member_args(self._store, item.members, partition, item.namespace)
        flow = views.flow(await self._store.call(partition, "flow_create", args))
        return [created({**flow, "members": flow.get("members") or {}})]

    async def start(self, call: Call[FlowStart]) -> Sequence[Any]:
        item = call.items[0]
        return [views.flow(await self._store.call(partition_of(item.flow_id), "flow_start", item))]

    async def get(self, call: Call[FlowGet]) -> Sequence[Any]:
        item = call.items[0]
        return [views.flow(await self._store.call(partition_of(item.flow_id), "flow_get", item))]

    async def list(self, call: Call[FlowList]) -> Sequence[Any]:
        item = call.items[0]
        filters = {name: value for name in ("owner", "status") if (value := getattr(item, name)) is not None}
        flows, cursor = await pages.newest(
            self._store, "flow_list", filters, "flow_id", item.cursor, item.limit
        )
        return [{"items": [views.flow(flow) for flow in flows], "cursor": cursor}]

    async def graph(self, call: Call[FlowGraph]) -> Sequence[Any]:
        return [await whole_graph(self._store, call.items[0].flow_id)]


def member_args(
    store: Store, members: Sequence[Member], partition: int, namespace: str
) -> list[dict[str, Any]]:
    """Members as the state machine takes them, each with its id: they live with their flow."""
    return [
        {
            **msgspec.structs.asdict(member),
            "execution_id": store.new_id(partition),
            "limit": limit_of(member, namespace, store.partitions),
        }
        for member in members
    ]


async def whole_graph(store: Store, flow_id: str) -> dict[str, Any]:
    """A flow's graph, read in slices; begun again when it changes meanwhile."""
    while True:
        parts: list[dict[str, Any]] = []
        while not parts or parts[-1]["more"]:
            slice_ = {"flow_id": flow_id, "offset": len(parts) * GRAPH_SLICE, "limit": GRAPH_SLICE}
            parts.append(await store.call(partition_of(flow_id), "flow_graph", slice_))
        if len({part["graph_revision"] for part in parts}) == 1:
            break
    return {
        "members": [
            {"reason": None, "outcome": None, **member} for part in parts for member in part["members"]
        ],
        "edges": [edge for part in parts for edge in part["edges"]],
        "joins": {join.pop("key"): join for part in parts for join in part["joins"]},
        "graph_revision": parts[0]["graph_revision"],
    }
