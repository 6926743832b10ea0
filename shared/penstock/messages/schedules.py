"""Messages about schedules: they create executions once, at an interval, or by a cron expression."""

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
    decoded,
)
from penstock.messages.executions import ExecutionCreated, ExecutionSpec

ScheduleStatus = Literal["active", "paused", "finished"]


class ScheduledExecution(ExecutionSpec, kw_only=True, dict=True):
    """The spec of the execution created at each due time. It must not have run_at or deadline_at of its own."""

    namespace: Token = "default"

    input = decoded("input")


class ScheduleCreate(Request, kw_only=True):
    """Create a schedule: exactly one of `at`, `every_ms` (`count`: number of executions) and `cron` (in `timezone`).

    misfire: what to do about due times that were missed, as no scheduler ran. catch_up: create an execution for
    each; skip: create only the latest one, and not even that if it is more than a minute late.
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


class ScheduleTimes(Request, kw_only=True):
    """Ask for a schedule's next due times, as they are if nothing changes."""

    schedule_id: Id
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class ScheduleList(Request, kw_only=True):
    """List schedules, newest first. All given filters must match."""

    namespace: Token | None = None
    status: ScheduleStatus | None = None
    cursor: IdCursor | None = None
    limit: Limit = 100


class ScheduleTrigger(Request, kw_only=True):
    """Create one of a schedule's executions now, beside its due times, which do not change. It may be paused."""

    schedule_id: Id
    idempotency_key: IdempotencyKey | None = None


class ScheduleTriggered(ExecutionCreated, kw_only=True):
    schedule_id: str = ""


class DueTimes(Reply, kw_only=True):
    """Due times, the next one first. None for a schedule that is paused or has finished."""

    times: list[int] = []


class ScheduleUpdate(Request, kw_only=True):
    """Change a schedule that has not finished; what is left out stays as it is.

    One of `at`, `every_ms` (with `count`) and `cron` (with `timezone`) replaces the schedule's timing as a whole, and
    its due times begin anew from now. `execution` replaces the spec as a whole; its namespace must be the schedule's.
    """

    schedule_id: Id
    execution: ScheduledExecution | None = None
    at: Instant | None = None
    every_ms: PositiveMs | None = None
    count: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    cron: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    timezone: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    misfire: Literal["catch_up", "skip"] | None = None


class Schedule(Reply, kw_only=True):
    """A schedule.

    fired: how many executions it has created, the last of them for the due time `last_due_at`. missed: how many due
    times had passed when a scheduler came to them and were left out (misfire `skip`), last at `missed_at`.
    """

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
    missed: int = 0
    missed_at: int | None = None
    created_at: int
    updated_at: int
    duplicate: bool = False
