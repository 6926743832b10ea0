"""Operations that change an existing flow: its state and its graph, and that end it."""

from penstock.machine.op import Op, op
from penstock.machine.specs import NewMember
from penstock.messages.flows import Edge, Flow, Join
from penstock.store.caller import MOST


@op("scheduler", by="flow_id")
class FlowUpdateState(Op[Flow], kw_only=True):
    """state: JSON text, merged already; None leaves the state unchanged."""

    flow_id: str
    expected_revision: int | None = None
    state: str | None = None
    next_step: str | None = None


@op("scheduler", by="flow_id")
class FlowEnd(Op[Flow], kw_only=True):
    """End a flow for its controller. to: finished or failed. state: as in FlowUpdateState."""

    flow_id: str
    expected_revision: int | None = None
    state: str | None = None
    next_step: str | None = None
    to: str
    reason: str | None = None


@op("scheduler", by="flow_id", weight=MOST)
class FlowAdd(Op[Flow], kw_only=True):
    """Add members, in one step. Their edges and joins were checked before."""

    flow_id: str
    graph_revision: int
    expected_revision: int | None = None
    members: list[NewMember]
    edges: list[Edge]
    joins: dict[str, Join]
    idempotency_key: str | None = None
    digest: str | None = None


@op("scheduler", by="flow_id")
class FlowConnect(Op[Flow], kw_only=True, rename={"from_": "from"}):
    """Add an edge. The caller has checked that it closes no cycle in the graph of this revision."""

    flow_id: str
    graph_revision: int
    expected_revision: int | None = None
    from_: str
    to: str
    data: str | None = None


@op("scheduler", by="flow_id")
class FlowSetJoin(Op[Flow], kw_only=True):
    flow_id: str
    graph_revision: int
    expected_revision: int | None = None
    key: str
    policy: str
    k: int | None = None
    on_satisfied: str
