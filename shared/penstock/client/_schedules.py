"""`client.schedules`: schedules that create executions at due times."""

from collections.abc import AsyncIterator
from typing import Any, Literal, Unpack, cast

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.client._options import ExecutionOptions
from penstock.client._pages import each
from penstock.messages.common import NULL
from penstock.messages.schedules import (
    Schedule,
    ScheduleCreate,
    ScheduledExecution,
    ScheduleGet,
    ScheduleList,
    ScheduleStatus,
    ScheduleTimes,
    ScheduleTrigger,
    ScheduleTriggered,
    ScheduleUpdate,
)


class Schedules:
    """Methods to create, list and change schedules. Each raises the typed error that the service replies with."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def create(
        self,
        kind: str,
        input: Any = NULL,
        *,
        at: int | None = None,
        every_ms: int | None = None,
        count: int | None = None,
        cron: str | None = None,
        timezone: str = "UTC",
        misfire: Literal["catch_up", "skip"] = "catch_up",
        **options: Unpack[ExecutionOptions],
    ) -> Schedule:
        """Create a schedule: it creates executions once (`at`), every `every_ms`, or by a `cron` expression.

        `timezone` is for `cron`. `options` are those of `Client.submit` and go into each execution, except
        `idempotency_key`, which is the schedule's own.
        """
        fields = dict(options)
        key = cast("str | None", fields.pop("idempotency_key", None))
        request = ScheduleCreate(
            execution=ScheduledExecution(kind=kind, raw_input=raw_of(input), **cast(Any, fields)),
            at=at,
            every_ms=every_ms,
            count=count,
            cron=cron,
            timezone=timezone,
            misfire=misfire,
            idempotency_key=key,
        )
        return await self._requester.call(verbs.SCHEDULE_CREATE, request)

    async def get(self, schedule_id: str) -> Schedule:
        """Return a schedule."""
        return await self._requester.call(verbs.SCHEDULE_GET, ScheduleGet(schedule_id=schedule_id))

    async def times(self, schedule_id: str, limit: int = 20) -> "list[int]":
        """Return the next due times in ms since the Unix epoch, as they are if nothing changes; at most 100."""
        request = ScheduleTimes(schedule_id=schedule_id, limit=limit)
        return (await self._requester.call(verbs.SCHEDULE_TIMES, request)).times

    async def pause(self, schedule_id: str) -> Schedule:
        """Pause a schedule: due times have no effect until it is resumed."""
        return await self._requester.call(verbs.SCHEDULE_PAUSE, ScheduleGet(schedule_id=schedule_id))

    async def resume(self, schedule_id: str) -> Schedule:
        """Resume a schedule from its next due time. A single due time (`at`) that passed meanwhile is not dropped."""
        return await self._requester.call(verbs.SCHEDULE_RESUME, ScheduleGet(schedule_id=schedule_id))

    async def trigger(self, schedule_id: str, *, idempotency_key: str | None = None) -> ScheduleTriggered:
        """Create one of the schedule's executions now, beside its due times. The schedule may be paused."""
        request = ScheduleTrigger(schedule_id=schedule_id, idempotency_key=idempotency_key)
        return await self._requester.call(verbs.SCHEDULE_TRIGGER, request)

    async def update(
        self,
        schedule_id: str,
        *,
        execution: ScheduledExecution | None = None,
        at: int | None = None,
        every_ms: int | None = None,
        count: int | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        misfire: Literal["catch_up", "skip"] | None = None,
    ) -> Schedule:
        """Change a schedule that has not finished; what is left out stays.

        One of `at`, `every_ms` (with `count`) and `cron` (with `timezone`) replaces the timing as a whole: due times
        begin anew. `execution` replaces the spec: change the one that `get` returned, for example.
        """
        request = ScheduleUpdate(
            schedule_id=schedule_id,
            execution=execution,
            at=at,
            every_ms=every_ms,
            count=count,
            cron=cron,
            timezone=timezone,
            misfire=misfire,
        )
        return await self._requester.call(verbs.SCHEDULE_UPDATE, request)

    async def delete(self, schedule_id: str) -> Schedule:
        """Delete a schedule. Executions that it has created go on."""
        return await self._requester.call(verbs.SCHEDULE_DELETE, ScheduleGet(schedule_id=schedule_id))

    def list(
        self, *, namespace: str | None = None, status: ScheduleStatus | None = None, page: int = 100
    ) -> AsyncIterator[Schedule]:
        """Iterate over the schedules that match all filters, newest first, fetching `page` at a time."""
        return each(
            self._requester,
            verbs.SCHEDULE_LIST,
            lambda cursor: ScheduleList(namespace=namespace, status=status, cursor=cursor, limit=page),
        )
