"""Messages about flows: managed flows (graphs of executions), and mirrored flows, which another system runs."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, UnsetType

from penstock.messages.common import (
    MAX_INT,
    Id,
    IdCursor,
    IdempotencyKey,
    Instant,
    Kind,
    Limit,
    PlaceCursor,
    Reply,
    Request,
    Text,
    Token,
    Traceparent,
    WaitMs,
    decoded,
    raw,
)
from penstock.messages.executions import ExecutionSpec
from penstock.states import FlowStatus

EMPTY_OBJECT = Raw(b"{}")
TaskName = Annotated[str, Meta(min_length=1, max_length=256)]
Revision = Annotated[int, Meta(ge=0, le=MAX_INT)]
EdgeData = Annotated[str, Meta(min_length=1, max_length=128)]
JoinPolicy = Literal["all_of", "any_of", "quorum"]
Quorum = Annotated[int, Meta(ge=1, le=100_000)]
OnSatisfied = Literal["let_run", "cancel_remaining"]


class Member(ExecutionSpec, kw_only=True):
    """An execution of a flow, with the key by which edges name it."""

    key: Token


class Edge(Request, kw_only=True, rename={"from_": "from"}):
    """An edge: `to` waits for `from`. data: the input key of `to` that receives the result of `from`."""

    from_: Token
    to: Token
    data: EdgeData | None = None


class Join(Request, kw_only=True):
    """When a member's incoming edges suffice, and what happens to the remaining parents."""

    policy: JoinPolicy = "all_of"
    k: Quorum | None = None
    on_satisfied: OnSatisfied = "let_run"


class FlowSpec(Request, kw_only=True):
    controller_id: Token
    goal: Text
    owner: Token
    requester_origin: Text | None = None
    current_step: Text | None = None
    state: Raw = raw(default=EMPTY_OBJECT)
    namespace: Token = "default"
    idempotency_key: IdempotencyKey | None = None


class FlowCreate(FlowSpec, kw_only=True):
    """Create a flow of executions. traceparent: of the members that have none of their own."""

    members: Annotated[list[Member], Meta(max_length=5000)] = []
    edges: Annotated[list[Edge], Meta(max_length=20_000)] = []
    joins: Annotated[dict[Token, Join], Meta(max_length=5000)] = {}
    traceparent: Traceparent | None = None


class FlowCreateMirrored(FlowSpec, kw_only=True):
    """Create a flow that another system runs. completion: what ends the flow.

    manual: only a verb. all_steps: the flow ends once all known steps are terminal (so announce steps as
    `pending` first), as failed if any step failed, else finished. on_task: the first terminal step of
    `completion_task` ends the flow, as that step ended.
    """

    completion: Literal["manual", "all_steps", "on_task"] = "manual"
    completion_task: TaskName | None = None


class Flow(Reply, kw_only=True, dict=True):
    """A flow with all its fields (contract §5)."""

    flow_id: str
    kind: str
    namespace: str
    controller_id: str
    goal: str
    owner: str
    requester_origin: str | None = None
    current_step: str | None = None
    raw_state: Raw = raw("state", EMPTY_OBJECT)
    wait: dict[str, Any] | None = None
    status: str
    cancel_requested: bool = False
    revision: int
    graph_revision: int
    counts: dict[str, int] = {}
    created_at: int
    updated_at: int
    finished_at: int | None = None
    members: dict[str, str] | None = None
    duplicate: bool = False

    state = decoded("state")


class FlowGet(Request, kw_only=True):
    flow_id: Id


class FlowWait(Request, kw_only=True):
    flow_id: Id
    wait_ms: WaitMs = 30_000


class FlowStart(Request, kw_only=True):
    flow_id: Id
    expected_revision: Revision | None = None


class FlowUpdateState(Request, kw_only=True):
    """Merge `state_patch` into the state, shallowly; a patch that is no object replaces the state.

    next_step: becomes current_step. Without `expected_revision` any revision is accepted, and a conflict retried once.
    """

    flow_id: Id
    state_patch: Raw | UnsetType = UNSET
    next_step: Text | None = None
    expected_revision: Revision | None = None


class FlowFinish(FlowUpdateState, kw_only=True):
    """Finish the flow. Members that have not started are skipped; running ones may end."""


class TimerWait(Request, kw_only=True, tag_field="kind", tag="timer"):
    """Wait until an instant; an instant that has passed resumes the flow at once."""

    at: Instant


class EventWait(Request, kw_only=True, tag_field="kind", tag="external_event"):
    """Wait until an event of this topic and correlation id is published, or until `timeout_at`."""

    topic: Kind
    correlation_id: Annotated[str, Meta(min_length=1, max_length=256)]
    timeout_at: Instant | None = None


class ManualWait(Request, kw_only=True, tag_field="kind", tag="manual"):
    """Wait until flow.resume."""


class FlowSetWaiting(Request, kw_only=True):
    """Make the flow wait (running → waiting): running members go on, none is started. flow.resume ends any wait."""

    flow_id: Id
    wait: TimerWait | EventWait | ManualWait
    expected_revision: Revision | None = None


class FlowResume(FlowUpdateState, kw_only=True):
    """Resume the flow (waiting → running): `wait` is cleared, `state_patch` is merged as in flow.update_state."""


class FlowFail(FlowUpdateState, kw_only=True):
    """Fail the flow; as flow.finish, but `state.failure` becomes {reason, at}."""

    reason: Text


class GraphChange(Request, kw_only=True):
    """A change of a flow's graph. graph_revision: the revision of the graph that the caller has seen."""

    flow_id: Id
    graph_revision: Revision
    expected_revision: Revision | None = None


class FlowAddExecution(GraphChange, kw_only=True):
    """Add members to the flow. Edges lead to new members, from new or existing ones. traceparent: as in flow.create."""

    members: Annotated[list[Member], Meta(min_length=1, max_length=500)]
    edges: Annotated[list[Edge], Meta(max_length=5000)] = []
    joins: Annotated[dict[Token, Join], Meta(max_length=500)] = {}
    idempotency_key: IdempotencyKey | None = None
    traceparent: Traceparent | None = None


class FlowAddDependency(GraphChange, kw_only=True, rename={"from_": "from"}):
    """Add an edge to a member that still waits for its dependencies."""

    from_: Token
    to: Token
    data: EdgeData | None = None


class FlowSetJoin(GraphChange, kw_only=True):
    """Replace the join of a member that still waits for its dependencies."""

    key: Token
    policy: JoinPolicy = "all_of"
    k: Quorum | None = None
    on_satisfied: OnSatisfied = "let_run"


class FlowList(Request, kw_only=True):
    """List flows, newest first. All given filters must match."""

    owner: Token | None = None
    status: FlowStatus | None = None
    cursor: IdCursor | None = None
    limit: Limit = 100


class FlowGraph(Request, kw_only=True):
    flow_id: Id


class Graph(Reply, kw_only=True):
    members: list[dict[str, Any]]
    edges: list[dict[str, Any]]
    joins: dict[str, dict[str, Any]]
    graph_revision: int


class Observation(Request, kw_only=True):
    """One step of a mirrored flow, as its runner observed it. observed_at defaults to the time when it is applied."""

    run_id: Annotated[str, Meta(min_length=1, max_length=256)]
    task: TaskName
    status: Literal["pending", "running", "succeeded", "failed", "cancelled"]
    result: Raw = raw()
    child_session_key: Text | None = None
    observed_at: Instant | None = None


class Observe(Observation, kw_only=True):
    flow_id: Id


class PublishedObservation(Observation, kw_only=True):
    """An observation published on `<root>.observation.<flow_id>`; `flow_id` may be omitted, as the subject names it."""

    flow_id: Id | None = None


class Step(Reply, kw_only=True, dict=True):
    """One step of a flow: an observation, or a managed flow's member."""

    flow_id: str
    run_id: str
    task: str
    status: str
    runtime: str
    raw_result: Raw = raw("result")
    child_session_key: str | None = None
    observed_at: int
    created_at: int
    updated_at: int
    applied: bool | None = None

    result = decoded("result")


class FlowSteps(Request, kw_only=True):
    flow_id: Id
    cursor: PlaceCursor | None = None
    limit: Limit = 1000
