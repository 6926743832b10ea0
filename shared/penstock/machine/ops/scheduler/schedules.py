"""Schedules. The rules stand in lua/schedule/schedules.lua; when the next time is, the scheduler knows."""

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Now, Slice
from penstock.messages.schedules import Schedule, ScheduledExecution


@op("scheduler")
class Clock(Op[Now], kw_only=True):
    """Valkey's time, from which cron's next one is counted."""


@op("scheduler", by="id")
class ScheduleCreate(Op[Schedule], kw_only=True):
    """spec: of the executions, without their input. next_at: of cron only."""

    id: str
    at: int | None = None
    every_ms: int | None = None
    count: int | None = None
    cron: str | None = None
    timezone: str
    next_at: int | None = None
    misfire: str
    spec: ScheduledExecution
    input: str | None = None
    limit: str | None = None
    namespace: str
    idempotency_key: str | None = None
    digest: str | None = None


@op("scheduler", by="schedule_id")
class ScheduleGet(Op[Schedule], kw_only=True):
    schedule_id: str


@op("scheduler", weight=PAGE)
class ScheduleList(Op[Slice[Schedule]], kw_only=True):
    """A page, newest first, looking at no more than `budget` schedules."""

    namespace: str | None = None
    status: str | None = None
    cursor: str | None = None
    limit: int
    budget: int


@op("scheduler", by="schedule_id")
class SchedulePause(Op[Schedule], kw_only=True):
    schedule_id: str


@op("scheduler", by="schedule_id")
class ScheduleResume(Op[Schedule], kw_only=True):
    """It goes on with `next_at`, unless it is not at `was` any more."""

    schedule_id: str
    was: int | None = None
    next_at: int | None = None


@op("scheduler", by="schedule_id")
class ScheduleDelete(Op[Schedule], kw_only=True):
    """Answers the schedule as it was."""

    schedule_id: str


class DueSchedule(Struct, kw_only=True):
    """A schedule that is due, as `Due` hands it out."""

    schedule_id: str
    due_at: int
    at: int | None = None
    every_ms: int | None = None
    count: int | None = None
    cron: str | None = None
    timezone: str
    misfire: str
    fired: int


class Fired(Struct):
    fired: int


@op("scheduler", by="schedule_id")
class ScheduleFire(Op[Fired], kw_only=True):
    """Due times that were handed out: (due time, execution id) each. next_at: None, that was the last."""

    schedule_id: str
    due_at: int
    fires: list[tuple[int, str]]
    skipped: int
    next_at: int | None = None
