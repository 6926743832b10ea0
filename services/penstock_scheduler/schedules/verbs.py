"""schedule.create, .get, .list, .delete, .pause, .resume, .trigger and .update; and the work when a schedule is due.

The state machine returns due schedules in the reply of `due`. This module computes the next due time. One op creates
the execution and sets the next due time, so several schedulers at once still create the execution only once.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from penstock.bus.calls import Call
from penstock.errors import PenstockError, invalid
from penstock.ids import partition_of
from penstock.machine import Machine, pages
from penstock.machine.idempotency import digest, home_for, once
from penstock.machine.ops import scheduler as ops
from penstock.machine.references import References
from penstock.machine.specs import normalize
from penstock.machine.tokens import limit_of
from penstock.messages.schedules import (
    DueTimes,
    Schedule,
    ScheduleCreate,
    ScheduledExecution,
    ScheduleGet,
    ScheduleList,
    ScheduleTimes,
    ScheduleTrigger,
    ScheduleTriggered,
    ScheduleUpdate,
)
from penstock_scheduler.schedules import timetable
from penstock_scheduler.schedules.timetable import Rule

log: Final = logging.getLogger(__name__)


class Schedules:
    """Handlers for schedules (no batches), and the work when a schedule is due."""

    def __init__(
        self, machine: Machine, references: References, spawn: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self._machine = machine
        self._references = references
        self._spawn = spawn

    # -- verbs ------------------------------------------------------------------------------------

    async def create(self, call: Call[ScheduleCreate]) -> Sequence[Any]:
        item, machine = call.items[0], self._machine
        _check_timing(item)
        execution = item.execution
        _check_spec(execution)
        normalize(execution)
        await self._references.check([execution])
        partition = home_for(execution.namespace, item.idempotency_key, machine.partitions)
        next_at = None
        if item.cron is not None:
            now = (await machine.run(ops.Clock(), at=partition)).now
            next_at = timetable.following(Rule(cron=item.cron, timezone=item.timezone), now)
        create = ops.ScheduleCreate.of(
            item,
            id=machine.new_id(partition),
            next_at=next_at,
            # The request decoder made the input JSON text, or None for null.
            input=None if execution.raw_input is None else str(execution.raw_input),
            spec=execution,
            limit=limit_of(execution, execution.namespace, machine.partitions),
            namespace=execution.namespace,
            digest=digest(item),
        )
        return [await machine.run(create)]

    async def get(self, call: Call[ScheduleGet]) -> Sequence[Any]:
        return [await self._machine.run(ops.ScheduleGet.of(call.items[0]))]

    async def list(self, call: Call[ScheduleList]) -> Sequence[Any]:
        return [await pages.newest(self._machine, ops.ScheduleList, call.items[0], "schedule_id")]

    async def times(self, call: Call[ScheduleTimes]) -> Sequence[Any]:
        item = call.items[0]
        schedule = await self._machine.run(ops.ScheduleGet(schedule_id=item.schedule_id))
        if schedule.status != "active" or schedule.next_at is None:
            return [DueTimes()]
        left = item.limit if schedule.count is None else min(item.limit, schedule.count - schedule.fired)
        return [DueTimes(times=timetable.coming(_rule(schedule), schedule.next_at, left))]

    async def delete(self, call: Call[ScheduleGet]) -> Sequence[Any]:
        return [await self._machine.run(ops.ScheduleDelete.of(call.items[0]))]

    async def pause(self, call: Call[ScheduleGet]) -> Sequence[Any]:
        return [await self._machine.run(ops.SchedulePause.of(call.items[0]))]

    async def resume(self, call: Call[ScheduleGet]) -> Sequence[Any]:
        schedule_id = call.items[0].schedule_id
        schedule = await self._machine.run(ops.ScheduleGet(schedule_id=schedule_id))
        resume = ops.ScheduleResume(schedule_id=schedule_id)
        if schedule.status == "paused" and schedule.next_at is not None:
            now = (await self._machine.run(ops.Clock(), at=partition_of(schedule_id))).now
            resume.was = schedule.next_at
            resume.next_at = timetable.resumed(_rule(schedule), schedule.next_at, now)
        return [await self._machine.run(resume)]

    async def trigger(self, call: Call[ScheduleTrigger]) -> Sequence[Any]:
        item, machine = call.items[0], self._machine

        async def make(execution_id: str, again: bool = False) -> ScheduleTriggered:
            trigger = ops.ScheduleTrigger(schedule_id=item.schedule_id, id=execution_id, again=again)
            return await machine.run(trigger)

        partition = partition_of(item.schedule_id)
        if item.idempotency_key is None:
            return [await make(machine.new_id(partition))]
        # The schedule's namespace is unknown here. Keys of triggers are kept apart by their verb.
        return [await once(machine, "trigger", "default", item, partition, make, ScheduleTriggered)]

    async def update(self, call: Call[ScheduleUpdate]) -> Sequence[Any]:
        item, machine = call.items[0], self._machine
        update = ops.ScheduleUpdate(schedule_id=item.schedule_id, misfire=item.misfire)
        if item.execution is not None:
            _check_spec(item.execution)
            normalize(item.execution)
            await self._references.check([item.execution])
            update.spec = item.execution
            # The request decoder made the input JSON text, or None for null.
            update.input = None if item.execution.raw_input is None else str(item.execution.raw_input)
            update.limit = limit_of(item.execution, item.execution.namespace, machine.partitions)
        if any(each is not None for each in (item.at, item.every_ms, item.cron, item.count, item.timezone)):
            timing = update.timing = ops.Timing(
                at=item.at,
                every_ms=item.every_ms,
                count=item.count,
                cron=item.cron,
                timezone=item.timezone or "UTC",
            )
            _check_timing(timing)
            if timing.cron is not None:
                now = (await machine.run(ops.Clock(), at=partition_of(item.schedule_id))).now
                timing.next_at = timetable.following(Rule(cron=timing.cron, timezone=timing.timezone), now)
        return [await machine.run(update)]

    # -- due times --------------------------------------------------------------------------------

    def due(self, partition: int, due: Sequence[Any], now: int) -> None:
        """Fire the due schedules that the `due` op returned. `now`: Valkey's time of its reply."""
        self._spawn(self._fire(partition, msgspec.convert(due, list[ops.DueSchedule]), now))

    async def _fire(self, partition: int, schedules: Sequence[ops.DueSchedule], now: int) -> None:
        fires: list[ops.ScheduleFire] = []
        for schedule in schedules:
            try:
                fires.append(_fires(self._machine, partition, schedule, now))
            except PenstockError as error:  # this machine's time zone data differ
                log.error("schedule %s cannot go on here: %s", schedule.schedule_id, error)
        for fire, reply in zip(fires, await self._machine.run_many(fires), strict=True):
            if isinstance(reply, PenstockError):
                log.info("schedule %s will be tried again: %s", fire.schedule_id, reply)


def _fires(machine: Machine, partition: int, schedule: ops.DueSchedule, now: int) -> ops.ScheduleFire:
    left = None if schedule.count is None else schedule.count - schedule.fired
    step = timetable.step(_rule(schedule), schedule.due_at, now, misfire=schedule.misfire, left=left)
    return ops.ScheduleFire(
        schedule_id=schedule.schedule_id,
        due_at=schedule.due_at,
        fires=[(at, machine.new_id(partition)) for at in step.fires],
        skipped=step.skipped,
        next_at=step.next_at,
    )


def _rule(schedule: ops.DueSchedule | Schedule) -> Rule:
    return Rule(schedule.every_ms, schedule.cron, schedule.timezone)


def _check_timing(item: ScheduleCreate | ops.Timing) -> None:
    """Raise `invalid_request`, naming the field, if the fields do not fit together."""
    given = [name for name in ("at", "every_ms", "cron") if getattr(item, name) is not None]
    if len(given) != 1:
        raise invalid(given[1] if given else "at", "give exactly one of at, every_ms and cron")
    if item.count is not None and item.every_ms is None:
        raise invalid("count", "goes with every_ms only")
    if item.cron is None and item.timezone != "UTC":
        raise invalid("timezone", "goes with cron only")


def _check_spec(execution: ScheduledExecution) -> None:
    for name in ("run_at", "deadline_at"):
        if getattr(execution, name) is not None:
            raise invalid(f"execution.{name}", "the schedule says when")
