"""Messages of the scheduler about executions, work and lanes."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Raw, field

from penstock.messages.common import (
    Capabilities,
    DurationMs,
    Id,
    IdCursor,
    IdempotencyKey,
    Instant,
    Kind,
    Kinds,
    LeaseTtlMs,
    Limit,
    PlaceCursor,
    PositiveMs,
    Priority,
    Reply,
    Request,
    Tags,
    Token,
    Traceparent,
    WaitMs,
    raw,
)
from penstock.states import ExecutionState

Categories = Annotated[list[Token], Meta(max_length=64)]
BudgetIds = Annotated[list[Id], Meta(max_length=16)]
TagFilter = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]{1,128}(=|(?!\n)$)", max_length=385, description="a tag's name, or name=value"
    ),
]


class Backoff(Request, kw_only=True):
    """How long a failed execution waits before its next attempt.

    fixed: `delay_ms`; exponential: `delay_ms * factor ** (attempt - 1)`, at most `max_ms`. `jitter`
    (0 to 1) shortens the wait by up to that share, at random.
    """

    kind: Literal["fixed", "exponential"] = "exponential"
    delay_ms: DurationMs = 1000
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_ms: DurationMs = 300_000
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.0


class ExecutionSpec(Request, kw_only=True):
    """The spec of an execution, for one created alone, in a flow or as a child.

    traceparent: kept with the execution and given to its workers, so that attempts belong to the submitter's trace.
    """

    kind: Kind
    raw_input: Raw = raw("input")
    lane: Token = "default"
    priority: Priority = 0
    run_at: Instant | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    backoff: Backoff | None = None
    retry_on: Categories | None = None
    fail_on: Categories | None = None
    attempt_timeout_ms: PositiveMs | None = None
    deadline_at: Instant | None = None
    capabilities: Capabilities = []
    tags: Tags = {}
    fairness_key: Token | None = None
    budget_ids: BudgetIds = []
    quota_id: Id | None = None
    concurrency_key: Token | None = None
    concurrency_limit: Annotated[int, Meta(ge=1, le=100_000)] = 1
    max_reclaims: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    retention_ms: PositiveMs | None = None
    traceparent: Traceparent | None = None


class ExecutionCreate(ExecutionSpec, kw_only=True):
    """Create an execution. parent_id: makes it a child, which its parent's `lease.await_children` waits for.

    flow_id: makes it a member of that flow, without dependencies; its key is its execution id.

    parent_close: what happens to it when its parent ends as failed or canceled. unique_key: at most one execution per
    namespace and key is not ended. on_conflict: what to do if there is one. existing: return it; reject: raise
    `idempotency_conflict`; replace: if it has not begun, give it the new input (and run_at, if it waits for its own);
    if it has begun, create a new execution that starts when it has ended.
    """

    parent_id: Id | None = None
    parent_close: Literal["cancel", "let_run"] = "cancel"
    flow_id: Id | None = None
    unique_key: IdempotencyKey | None = None
    on_conflict: Literal["existing", "reject", "replace"] = "existing"
    namespace: Token = "default"
    idempotency_key: IdempotencyKey | None = None


class ExecutionExecute(ExecutionCreate, kw_only=True):
    """Create an execution, and wait up to `wait_ms` for its end."""

    wait_ms: WaitMs = 30_000


class ExecutionCreated(Reply, kw_only=True):
    execution_id: str
    state: str
    duplicate: bool = False


class ExecutionGet(Request, kw_only=True):
    execution_id: Id


class ExecutionList(Request, kw_only=True):
    """List executions, newest first. All given filters must match. tag: a tag's name, or `name=value`."""

    namespace: Token | None = None
    lane: Token | None = None
    kind: Kind | None = None
    state: ExecutionState | None = None
    flow_id: Id | None = None
    tag: TagFilter | None = None
    cursor: IdCursor | None = None
    limit: Limit = 100


class ExecutionHistory(Request, kw_only=True):
    execution_id: Id
    cursor: PlaceCursor | None = None
    limit: Limit = 1000


class ExecutionEvent(Reply, kw_only=True, rename={"from_": "from"}):
    """One event in an execution's history."""

    seq: int
    event: str
    at: int
    actor: str | None = None
    from_: str | None = None
    to: str | None = None
    reason: str | None = None
    data: dict[str, Any] | None = None


class ExecutionWait(Request, kw_only=True):
    execution_id: Id
    wait_ms: WaitMs = 30_000


MAX_TASKS: Final = 128
"""The most tasks of one round of handing out, and of one reply to `work.next`: then no call takes Valkey over 2 ms."""


class WorkNext(Request, kw_only=True):
    """Ask for tasks, and wait up to `wait_ms` until there is work.

    start: start each task in the same step (from ready to running at once), so that the worker need not call
    `lease.start`.
    """

    worker_id: Token
    lanes: Annotated[list[Token], Meta(min_length=1, max_length=64)] = field(
        default_factory=lambda: ["default"]
    )
    capabilities: Capabilities = []
    kinds: Kinds | None = None
    max: Annotated[int, Meta(ge=1, le=1000)] = 1
    wait_ms: WaitMs = 30_000
    lease_ttl_ms: LeaseTtlMs = 30_000
    start: bool = False


class WorkGrant(Request, kw_only=True):
    worker_id: Token
    lanes: Annotated[list[Token], Meta(min_length=1, max_length=64)] = field(
        default_factory=lambda: ["default"]
    )
    capabilities: Capabilities = []
    kinds: Kinds | None = None
    max: Annotated[int, Meta(ge=1, le=1000)] = 1


class Grant(Reply, kw_only=True):
    """The right to claim one execution until `expires_at`."""

    grant_id: str
    execution_id: str
    resumed: bool
    reclaim: bool
    expires_at: int


class LaneList(Request, kw_only=True):
    cursor: Token | None = None
    limit: Limit = 100


class Lane(Reply, kw_only=True):
    """A lane. depth: executions per state; oldest_ready_age_ms: how long its oldest ready execution has waited."""

    lane: str
    status: str
    depth: dict[str, int]
    oldest_ready_age_ms: int | None = None
