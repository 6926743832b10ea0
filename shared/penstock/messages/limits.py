"""Messages about quotas and budgets."""

from typing import Annotated, Literal

from msgspec import Meta

from penstock.messages.common import (
    MAX_INT,
    Fence,
    Id,
    IdempotencyKey,
    PositiveMs,
    Reply,
    Request,
    Token,
)

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Amount = Annotated[
    int, Meta(ge=0, le=MAX_INT, description="whole units of a dimension: tokens, cents, bytes")
]
Amounts = Annotated[dict[Token, Amount], Meta(min_length=1, max_length=32)]


class QuotaCreate(Request, kw_only=True):
    """Allow at most `max_per_window` starts in any `window_ms`, at most `max_concurrent` at once, or both."""

    max_per_window: Count | None = None
    window_ms: PositiveMs | None = None
    max_concurrent: Count | None = None
    namespace: Token = "default"
    idempotency_key: IdempotencyKey | None = None


class QuotaGet(Request, kw_only=True):
    quota_id: Id


class Quota(Reply, kw_only=True):
    """A quota and its current use; `retry_after_ms` is 0 if the window has room."""

    quota_id: str
    max_per_window: int | None = None
    window_ms: int | None = None
    max_concurrent: int | None = None
    created_at: int
    running: int
    in_window: int
    retry_after_ms: int = 0
    duplicate: bool = False


class BudgetLimits(Request, kw_only=True):
    """Limits of one dimension. Above `soft` replies to reports say so; above `hard` the budget's `on_hard` applies."""

    soft: Amount | None = None
    hard: Amount


class BudgetCreate(Request, kw_only=True):
    """Limit what all executions that list the budget may use together, per dimension.

    on_hard: what happens to an execution whose report passes a hard limit. suspend: it waits until there is
    room; fail: it fails for good (category `budget_exceeded`); deny: it goes on, but the report is refused.
    reset_every_ms: the period, counted from now, after which the use is set to 0 again.
    """

    dimensions: Annotated[dict[Token, BudgetLimits], Meta(min_length=1, max_length=32)]
    on_hard: Literal["suspend", "fail", "deny"] = "suspend"
    reset_every_ms: PositiveMs | None = None
    namespace: Token = "default"
    idempotency_key: IdempotencyKey | None = None


class BudgetGet(Request, kw_only=True):
    budget_id: Id


class BudgetReplenish(Request, kw_only=True):
    """Raise the soft and hard limits of these dimensions by the given amounts."""

    budget_id: Id
    dimensions: Amounts
    idempotency_key: IdempotencyKey | None = None


class BudgetUse(Reply, kw_only=True):
    used: int
    soft: int | None = None
    hard: int


class Budget(Reply, kw_only=True):
    """A budget and its current use.

    exhausted: no execution that lists the budget is handed out; suspended: how many executions it keeps suspended.
    """

    budget_id: str
    namespace: str = "default"
    dimensions: dict[str, BudgetUse]
    on_hard: str
    reset_every_ms: int | None = None
    reset_at: int | None = None
    exhausted: bool = False
    suspended: int = 0
    created_at: int
    updated_at: int
    duplicate: bool = False


class LeaseUsage(Fence, kw_only=True):
    """Report what the task has used since its last report. Reports with equal `dedup_key` count once in 24 h."""

    budget_id: Id
    dimensions: Amounts
    dedup_key: IdempotencyKey | None = None


class UsageTotal(Reply, kw_only=True):
    current: int
    limit: int
    soft: int | None = None


class Usage(Reply, kw_only=True):
    """status: ok, soft_breach, hard_breach or already_applied.

    state: the execution's; if the report passed a hard limit, the execution is no longer leased or running.
    """

    status: str
    dimensions: dict[str, UsageTotal]
    state: str | None = None
