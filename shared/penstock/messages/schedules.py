"""Schedules: executions that are created at their time, once, every so often, or as cron says."""

from typing import Annotated, Literal

from msgspec import Meta

from penstock.messages.common import (
    Id,
    IdCursor,
    IdempotencyKey,
    Instant,
    Limit,
    PositiveMs,
    Reply,
    Request,
    Token,
)
from penstock.messages.executions import ExecutionSpec

ScheduleStatus = Literal["active", "paused", "finished"]


class ScheduledExecution(ExecutionSpec, kw_only=True):
    """What is created at each due time; its own times (run_at, deadline_at) are the schedule's business."""

    namespace: Token = "default"


class ScheduleCreate(Request, kw_only=True):
    """Exactly one of `at`, `every_ms` (with `count`: so many executions) and `cron` (in `timezone`).

    misfire says what becomes of due times that nobody was there for. catch_up: one execution for each;
    skip: only the latest of them, and not even that when it is more than a minute late.
    """

    execution: ScheduledExecution
    at: Instant | None = None
    every_ms: PositiveMs | None = None
    count: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    cron: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    timezone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"
    misfire: Literal["catch_up", "skip"] = "catch_up"
    idempotency_key: IdempotencyKey | None = None


class ScheduleGet(Request, kw_only=True):
    schedule_id: Id


class ScheduleList(Request, kw_only=True):
    """Newest first. All filters must hold."""

    namespace: Token | None = None
    status: ScheduleStatus | None = None
    cursor: IdCursor | None = None
    limit: Limit = 100


class Schedule(Reply, kw_only=True):
    """A schedule. `fired`: how many executions it has created, the last one for the due time `last_due_at`."""

    schedule_id: str
    namespace: str
    status: str
    at: int | None = None
    every_ms: int | None = None
    count: int | None = None
    cron: str | None = None
    timezone: str = "UTC"
    misfire: str
    execution: ScheduledExecution
    next_at: int | None = None
    fired: int = 0
    last_due_at: int | None = None
    last_execution_id: str | None = None
    created_at: int
    updated_at: int
    duplicate: bool = False
