"""Flows: graphs of executions, and mirrored flows that somebody else runs."""

from typing import Annotated, Any, ClassVar, Literal

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
    """An execution of a flow, with the key that edges name it by."""

    key: Token


class Edge(Request, kw_only=True, rename={"from_": "from"}):
    """`to` waits for `from`; `data` hands the result on under this input key."""

    from_: Token
    to: Token
    data: EdgeData | None = None


class Join(Request, kw_only=True):
    """How a member with several incoming edges is satisfied, and what becomes of the rest."""

    policy: JoinPolicy = "all_of"
    k: Quorum | None = None
    on_satisfied: OnSatisfied = "let_run"


class FlowSpec(Request, kw_only=True):
    payload_fields: ClassVar[tuple[str, ...]] = ("state",)

    controller_id: Token
    goal: Text
    owner: Token
    requester_origin: Text | None = None
    current_step: Text | None = None
    state: Raw = raw(EMPTY_OBJECT)
    namespace: Token = "default"
    idempotency_key: IdempotencyKey | None = None


class FlowCreate(FlowSpec, kw_only=True):
    members: Annotated[list[Member], Meta(max_length=5000)] = []
    edges: Annotated[list[Edge], Meta(max_length=20_000)] = []
    joins: dict[Token, Join] = {}


class FlowCreateMirrored(FlowSpec, kw_only=True):
    """A flow that somebody else runs, and what ends it.

    `manual`: nothing but a verb. `all_steps`: once every step that is known is terminal, so announce steps
    as `pending` first; finished, or failed if any failed. `on_task`: the first terminal step of
    `completion_task`, with its own ending.
    """

    completion: Literal["manual", "all_steps", "on_task"] = "manual"
    completion_task: TaskName | None = None


class Flow(Reply, kw_only=True):
    """A flow, whole (contract §5)."""

    payload_fields: ClassVar[tuple[str, ...]] = ("state",)

    flow_id: str
    kind: str
    namespace: str
    controller_id: str
    goal: str
    owner: str
    requester_origin: str | None = None
    current_step: str | None = None
    state: Raw = raw(EMPTY_OBJECT)
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

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Flow":
        """From the state machine's record, whose payloads are text; what is newer there is left out."""
        return cls(**{name: value for name, value in record.items() if name in cls.__struct_fields__})


class FlowGet(Request, kw_only=True):
    flow_id: Id


class FlowStart(Request, kw_only=True):
    flow_id: Id
    expected_revision: Revision | None = None


class FlowUpdateState(Request, kw_only=True):
    """`state_patch` is merged shallowly, anything but an object replaces; `next_step` becomes current_step.

    No `expected_revision`: whatever the revision is, tried twice.
    """

    payload_fields: ClassVar[tuple[str, ...]] = ("state_patch",)

    flow_id: Id
    state_patch: Raw | UnsetType = UNSET
    next_step: Text | None = None
    expected_revision: Revision | None = None


class FlowFinish(FlowUpdateState, kw_only=True):
    """Members that have not begun are skipped, running ones may end."""


class TimerWait(Request, kw_only=True, tag_field="kind", tag="timer"):
    """Until an instant; one that has passed resumes the flow at once."""

    at: Instant


class EventWait(Request, kw_only=True, tag_field="kind", tag="external_event"):
    """Until an event of this topic and correlation id is published, or `timeout_at` has come."""

    topic: Kind
    correlation_id: Annotated[str, Meta(min_length=1, max_length=256)]
    timeout_at: Instant | None = None


class ManualWait(Request, kw_only=True, tag_field="kind", tag="manual"):
    """Until flow.resume."""


class FlowSetWaiting(Request, kw_only=True):
    """running → waiting: members that run go on, none is started. flow.resume ends any wait."""

    flow_id: Id
    wait: TimerWait | EventWait | ManualWait
    expected_revision: Revision | None = None


class FlowResume(FlowUpdateState, kw_only=True):
    """waiting → running: `wait` is cleared, `state_patch` is merged as in flow.update_state."""


class FlowFail(FlowUpdateState, kw_only=True):
    """As finish; `state.failure` becomes {reason, at}."""

    reason: Text


class GraphChange(Request, kw_only=True):
    """`graph_revision`: the graph as the caller knows it."""

    flow_id: Id
    graph_revision: Revision
    expected_revision: Revision | None = None


class FlowAddExecution(GraphChange, kw_only=True):
    """More members. Edges lead to them, from each other or from members that exist."""

    members: Annotated[list[Member], Meta(min_length=1, max_length=500)]
    edges: Annotated[list[Edge], Meta(max_length=5000)] = []
    joins: dict[Token, Join] = {}
    idempotency_key: IdempotencyKey | None = None


class FlowAddDependency(GraphChange, kw_only=True, rename={"from_": "from"}):
    """One more edge, to a member that still waits for its dependencies."""

    from_: Token
    to: Token
    data: EdgeData | None = None


class FlowSetJoin(GraphChange, kw_only=True):
    """Another join for a member that still waits for its dependencies."""

    key: Token
    policy: JoinPolicy = "all_of"
    k: Quorum | None = None
    on_satisfied: OnSatisfied = "let_run"


class FlowList(Request, kw_only=True):
    """Newest first. All filters must hold."""

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
    """One step of a mirrored flow, as its runner saw it. No observed_at: when it is applied."""

    payload_fields: ClassVar[tuple[str, ...]] = ("result",)

    run_id: Annotated[str, Meta(min_length=1, max_length=256)]
    task: TaskName
    status: Literal["pending", "running", "succeeded", "failed", "cancelled"]
    result: Raw = raw()
    child_session_key: Text | None = None
    observed_at: Instant | None = None


class Observe(Observation, kw_only=True):
    flow_id: Id


class PublishedObservation(Observation, kw_only=True):
    """What is published on `<root>.observation.<flow_id>`; the flow need not be named again."""

    flow_id: Id | None = None


class Step(Reply, kw_only=True):
    """One step of a flow: an observation, or a managed flow's member."""

    payload_fields: ClassVar[tuple[str, ...]] = ("result",)

    flow_id: str
    run_id: str
    task: str
    status: str
    runtime: str
    result: Raw = raw()
    child_session_key: str | None = None
    observed_at: int
    created_at: int
    updated_at: int
    applied: bool | None = None


class FlowSteps(Request, kw_only=True):
    flow_id: Id
    cursor: PlaceCursor | None = None
    limit: Limit = 1000
