"""Flows: graphs of executions, and mirrored flows that somebody else runs."""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Raw

from penstock.messages.common import (
    MAX_INT,
    Id,
    IdempotencyKey,
    Instant,
    Kind,
    Limit,
    Reply,
    Request,
    Text,
    Token,
    WaitMs,
    raw,
)
from penstock.messages.executions import ExecutionSpec
from penstock.states import FlowStatus

EMPTY_OBJECT = Raw(b"{}")
Revision = Annotated[int, Meta(ge=0, le=MAX_INT)]


class Member(ExecutionSpec, kw_only=True):
    """An execution of a flow, with the key that edges name it by."""

    key: Token


class Edge(Request, kw_only=True, rename={"from_": "from"}):
    """`to` waits for `from`; `data` hands the result on under this input key."""

    from_: Token
    to: Token
    data: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class Join(Request, kw_only=True):
    """How a member with several incoming edges is satisfied, and what becomes of the rest."""

    policy: Literal["all_of", "any_of", "quorum"] = "all_of"
    k: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    on_satisfied: Literal["let_run", "cancel_remaining"] = "let_run"


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
    """`on_task` ends the flow with the first terminal step of `completion_task`."""

    completion: Literal["manual", "all_steps", "on_task"] = "manual"
    completion_task: Kind | None = None


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


class FlowGet(Request, kw_only=True):
    flow_id: Id


class FlowStart(Request, kw_only=True):
    flow_id: Id
    expected_revision: Revision | None = None


class FlowList(Request, kw_only=True):
    """Newest first. All filters must hold."""

    owner: Token | None = None
    status: FlowStatus | None = None
    cursor: Annotated[str, Meta(max_length=256)] | None = None
    limit: Limit = 100


class FlowGraph(Request, kw_only=True):
    flow_id: Id


class Graph(Reply, kw_only=True):
    members: list[dict[str, Any]]
    edges: list[dict[str, Any]]
    joins: dict[str, dict[str, Any]]
    graph_revision: int


class Observe(Request, kw_only=True):
    """One step of a mirrored flow, as its runner saw it."""

    payload_fields: ClassVar[tuple[str, ...]] = ("result",)

    flow_id: Id
    run_id: Annotated[str, Meta(min_length=1, max_length=256)]
    task: Text
    status: Literal["pending", "running", "succeeded", "failed", "cancelled"]
    result: Raw = raw()
    child_session_key: Text | None = None
    observed_at: Instant | None = None


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
    cursor: Annotated[str, Meta(max_length=256)] | None = None
    limit: Limit = 1000


class FlowRequestCancel(Request, kw_only=True):
    flow_id: Id
    expected_revision: Revision | None = None


class FlowCancel(Request, kw_only=True):
    flow_id: Id
    policy: Literal["cancel_all", "cancel_pending", "flow_only"] = "cancel_all"
    reason: Text = ""
    wait: bool = False
    wait_ms: WaitMs = 30_000
    expected_revision: Revision | None = None


class FlowCancelled(Reply, kw_only=True):
    """`cancelled`, `cancellation_scheduled` or `partially_cancelled` (contract §3)."""

    result: str
    cancellation_policy: str
    member_execution_ids: list[str] = []
    member_count: int | None = None
    failed_member_execution_ids: list[str] | None = None


class ExecutionCancel(Request, kw_only=True):
    execution_id: Id
    reason: Text = ""
    grace_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 10_000


class CancelBacklog(Request, kw_only=True):
    cursor: Annotated[str, Meta(max_length=256)] | None = None
    limit: Limit = 100


class BacklogItem(Reply, kw_only=True):
    """An execution that is still to be stopped."""

    execution_id: str
    flow_id: str | None = None
    tries: int
    next_at: int
    last_error: str | None = None
