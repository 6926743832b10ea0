"""Operations on schedules. The rules are in lua/schedule/schedules.lua; the scheduler computes the next time."""

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Now, Slice
from penstock.messages.schedules import Schedule, ScheduledExecution, ScheduleTriggered


@op("scheduler")
class Clock(Op[Now], kw_only=True):
    """Return Valkey's time, from which the next time of a cron schedule is computed."""


@op("scheduler", by="id")
class ScheduleCreate(Op[Schedule], kw_only=True):
    """spec: that of the executions, without their input. next_at: the first due time, for cron only."""

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
    """Return a page, newest first, examining at most `budget` schedules."""

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
    """Resume a paused schedule with the next due time `next_at`, if its due time still is `was`."""

    schedule_id: str
    was: int | None = None
    next_at: int | None = None


@op("scheduler", by="schedule_id")
class ScheduleDelete(Op[Schedule], kw_only=True):
    """Delete a schedule. Return the schedule as it was."""

    schedule_id: str


@op("scheduler", by="schedule_id")
class ScheduleTrigger(Op[ScheduleTriggered], kw_only=True):
    """Create one of a schedule's executions now. again: as in Create."""

    schedule_id: str
    id: str
    again: bool = False


class Timing(Struct, kw_only=True, omit_defaults=True):
    """When a schedule is due. next_at: the first due time, for cron only."""

    at: int | None = None
    every_ms: int | None = None
    count: int | None = None
    cron: str | None = None
    timezone: str
    next_at: int | None = None


@op("scheduler", by="schedule_id")
class ScheduleUpdate(Op[Schedule], kw_only=True):
    """Replace a schedule's timing, its `misfire`, or its spec with input and limit; what is None stays."""

    schedule_id: str
    timing: Timing | None = None
    misfire: str | None = None
    spec: ScheduledExecution | None = None
    input: str | None = None
    limit: str | None = None


class DueSchedule(Struct, kw_only=True):
    """A due schedule, in DueDone.outside."""

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
    """Create executions of due times. fires: (due time, execution id) each; next_at: None after the last one."""

    schedule_id: str
    due_at: int
    fires: list[tuple[int, str]]
    skipped: int
    next_at: int | None = None
