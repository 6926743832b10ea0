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
from penstock.messages.flows import (
    FlowAddDependency,
    FlowAddExecution,
    FlowFail,
    FlowFinish,
    FlowSetJoin,
    FlowUpdateState,
)
from penstock.store import Store
from penstock.store.caller import Args
from penstock.store.references import References
from penstock.store.specs import normalize
from penstock_scheduler import views
from penstock_scheduler.flows import graphs
from penstock_scheduler.flows.verbs import member_args, whole_graph
from penstock_scheduler.idempotency import created, digest

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

    def __init__(self, store: Store, references: References, payload_limit: int) -> None:
        self._store = store
        self._references = references
        self._limit = payload_limit

    # -- its state ----------------------------------------------------------------------------------

    async def update_state(self, call: Call[FlowUpdateState]) -> Sequence[Any]:
        return [await self._change("flow_update_state", call.items[0], {})]

    async def finish(self, call: Call[FlowFinish]) -> Sequence[Any]:
        return [await self._change("flow_end", call.items[0], {"to": "finished"})]

    async def fail(self, call: Call[FlowFail]) -> Sequence[Any]:
        item = call.items[0]
        return [await self._change("flow_end", item, {"to": "failed", "reason": item.reason}, item.reason)]

    async def _change(
        self, op: str, item: FlowUpdateState, args: dict[str, Any], failure: str | None = None
    ) -> dict[str, Any]:
        """The op, with the state that it leads to. Without a patch, there is nothing to read."""
        partition = partition_of(item.flow_id)
        args = {
            "flow_id": item.flow_id,
            "expected_revision": item.expected_revision,
            "next_step": item.next_step,
            **args,
        }
        if item.state_patch is UNSET and failure is None:
            return views.flow(await self._store.call(partition, op, args))
        tries = TRIES if item.expected_revision is None else 1
        while True:
            seen = await self._store.call(partition, "flow_state", {"flow_id": item.flow_id})
            state = self._merged(seen, item, failure)
            if item.expected_revision is None:
                args["expected_revision"] = seen["revision"]
            elif item.expected_revision != seen["revision"]:
                state = None  # not what the caller knows: the op says so
            try:
                return views.flow(await self._store.call(partition, op, {**args, "state": state}))
            except PenstockError as error:
                tries -= 1
                if error.code != "revision_mismatch" or not tries:
                    raise

    def _merged(self, seen: dict[str, Any], item: FlowUpdateState, failure: str | None) -> str:
        state: str = seen["state"]
        if item.state_patch is not UNSET:
            # By now a payload is its JSON text, or None for null.
            state = merge(state, "null" if item.state_patch is None else str(item.state_patch))
        if failure is not None:
            state = merge(state, _encode({"failure": {"reason": failure, "at": seen["now"]}}).decode())
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
        item = call.items[0]
        graphs.check(item.members, item.edges, item.joins, more=True)
        args = {**msgspec.structs.asdict(item), "digest": item.idempotency_key and digest(item)}
        for member in item.members:
            normalize(member)
        for error in (await self._references.missing(item.members)).values():
            raise error
        partition = partition_of(item.flow_id)
        flow = await self._store.call(partition, "flow_get", {"flow_id": item.flow_id})
        args["members"] = member_args(self._store, item.members, partition, flow["namespace"])
        return [created(views.flow(await self._store.call(partition, "flow_add", args)))]

    async def add_dependency(self, call: Call[FlowAddDependency]) -> Sequence[Any]:
        item = call.items[0]
        graph = await whole_graph(self._store, item.flow_id)
        if graph["graph_revision"] == item.graph_revision:
            graphs.check_edge(graph["edges"], item.from_, item.to)
        return [await self._change_graph("flow_connect", item.flow_id, item)]

    async def set_join(self, call: Call[FlowSetJoin]) -> Sequence[Any]:
        item = call.items[0]
        graphs.check_policy(item.policy, item.k)
        # Requests leave their defaults off the wire; here they replace what was.
        return [await self._change_graph("flow_set_join", item.flow_id, msgspec.structs.asdict(item))]

    async def _change_graph(self, op: str, flow_id: str, args: Args) -> dict[str, Any]:
        return views.flow(await self._store.call(partition_of(flow_id), op, args))
