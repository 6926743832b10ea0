"""Quotas and budgets: what the scheduler answers about limits."""

from typing import Annotated

from msgspec import Meta

from penstock.messages.common import Id, IdempotencyKey, PositiveMs, Reply, Request, Token

Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class QuotaCreate(Request, kw_only=True):
    """At most `max_per_window` starts in any `window_ms`, at most `max_concurrent` at once; one of them or both."""

    max_per_window: Count | None = None
    window_ms: PositiveMs | None = None
    max_concurrent: Count | None = None
    namespace: Token = "default"
    idempotency_key: IdempotencyKey | None = None


class QuotaGet(Request, kw_only=True):
    quota_id: Id


class Quota(Reply, kw_only=True):
    """A quota and its use now; `retry_after_ms` is 0 when its window has room."""

    quota_id: str
    max_per_window: int | None = None
    window_ms: int | None = None
    max_concurrent: int | None = None
    created_at: int
    running: int
    in_window: int
    retry_after_ms: int = 0
    duplicate: bool = False
