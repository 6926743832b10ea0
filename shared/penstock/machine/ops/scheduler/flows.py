"""Operations that create, start and read flows."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Slice
from penstock.machine.specs import NewMember
from penstock.messages.flows import Edge, Flow, Join
from penstock.store.caller import MOST


@op("scheduler", by="id", weight=MOST)
class FlowCreate(Op[Flow], kw_only=True):
    """Create a flow with its whole graph, in one step. The graph was checked before."""

    id: str
    controller_id: str
    goal: str
    owner: str
    requester_origin: str | None = None
    current_step: str | None = None
    state: str | None
    namespace: str
    idempotency_key: str | None = None
    digest: str | None = None
    members: list[NewMember]
    edges: list[Edge]
    joins: dict[str, Join]


@op("scheduler", by="flow_id")
class FlowStart(Op[Flow], kw_only=True):
    flow_id: str
    expected_revision: int | None = None


@op("scheduler", weight=PAGE)
class FlowList(Op[Slice[Flow]], kw_only=True):
    """Return a page, newest first, examining at most `budget` flows."""

    owner: str | None = None
    status: str | None = None
    cursor: str | None = None
    limit: int
    budget: int


class GraphMember(Struct, kw_only=True):
    key: str
    execution_id: str
    kind: str
    state: str
    reason: str | None = None
    outcome: str | None = None


class GraphJoin(Struct, kw_only=True):
    key: str
    policy: str
    k: int | None = None
    on_satisfied: str


class GraphSlice(Struct, kw_only=True):
    """A part of a graph: members, with their outgoing edges and their joins."""

    members: list[GraphMember]
    edges: list[dict[str, Any]]
    joins: list[GraphJoin]
    graph_revision: int
    more: bool


@op("scheduler", by="flow_id", weight=32)
class FlowGraph(Op[GraphSlice], kw_only=True):
    flow_id: str
    offset: int
    limit: int
