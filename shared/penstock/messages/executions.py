"""Executions, work and lanes: what the scheduler answers."""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Raw, field

from penstock.messages.common import (
    Capabilities,
    DurationMs,
    Id,
    IdCursor,
    IdempotencyKey,
    Instant,
    Kind,
    LeaseTtlMs,
    Limit,
    PlaceCursor,
    PositiveMs,
    Priority,
    Reply,
    Request,
    Tags,
    Token,
    WaitMs,
    raw,
)
from penstock.states import ExecutionState

Categories = Annotated[list[Token], Meta(max_length=64)]
BudgetIds = Annotated[list[Id], Meta(max_length=16)]


class Backoff(Request, kw_only=True):
    """How long a failed execution waits before its next attempt.

    fixed: `delay_ms`; exponential: `delay_ms * factor ** (attempt - 1)`, at most `max_ms`. `jitter`
    (0 to 1) takes off up to that share at random.
    """

    kind: Literal["fixed", "exponential"] = "exponential"
    delay_ms: DurationMs = 1000
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_ms: DurationMs = 300_000
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.0


class ExecutionSpec(Request, kw_only=True):
    """What an execution is, wherever one is made: alone, in a flow, as a child."""

    payload_fields: ClassVar[tuple[str, ...]] = ("input",)

    kind: Kind
    input: Raw = raw()
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


class ExecutionCreate(ExecutionSpec, kw_only=True):
    """One execution. `lease.await_children` waits for those whose `parent_id` names the caller's.

    With `flow_id` it is one more member of that flow: it depends on no other, and its key is its id.

    parent_close: what becomes of it when its parent ends as failed or canceled. unique_key: of those of a namespace
    with this key at most one has not ended. Is there one, on_conflict says what is done. existing: it is the answer;
    reject: `idempotency_conflict`; replace: one that has not begun takes the new input and run_at, after one that has
    begun a new one starts when that has ended.
    """

    parent_id: Id | None = None
    parent_close: Literal["cancel", "let_run"] = "cancel"
    flow_id: Id | None = None
    unique_key: IdempotencyKey | None = None
    on_conflict: Literal["existing", "reject", "replace"] = "existing"
    namespace: Token = "default"
    idempotency_key: IdempotencyKey | None = None


class ExecutionCreated(Reply, kw_only=True):
    execution_id: str
    state: str
    duplicate: bool = False


class ExecutionGet(Request, kw_only=True):
    execution_id: Id


class ExecutionList(Request, kw_only=True):
    """Newest first. All filters must hold. `tag` is a tag's name, or `name=value`."""

    namespace: Token | None = None
    lane: Token | None = None
    kind: Kind | None = None
    state: ExecutionState | None = None
    flow_id: Id | None = None
    tag: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}(=|(?!\n)$)", max_length=385)] | None = None
    cursor: IdCursor | None = None
    limit: Limit = 100


class ExecutionHistory(Request, kw_only=True):
    execution_id: Id
    cursor: PlaceCursor | None = None
    limit: Limit = 1000


class ExecutionEvent(Reply, kw_only=True, rename={"from_": "from"}):
    """One event of one execution, as its history tells it."""

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


class WorkNext(Request, kw_only=True):
    """Parks up to `wait_ms` until there is work.

    `start`: begin each task at once (leased, then running, in one step) and spare the worker its
    `lease.start`.
    """

    worker_id: Token
    lanes: Annotated[list[Token], Meta(min_length=1, max_length=64)] = field(
        default_factory=lambda: ["default"]
    )
    capabilities: Capabilities = []
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
    """How deep a lane is, per state, and since when its oldest ready execution waits."""

    lane: str
    status: str
    depth: dict[str, int]
    oldest_ready_age_ms: int | None = None
