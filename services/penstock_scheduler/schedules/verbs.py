"""schedule.create, .get, .list, .delete, .pause and .resume; and their due times.

The state machine hands a due schedule out with the reply of `due`; when the next one is comes from here; the
execution is created in the step that moves the schedule on, so that it is once however many do this at a time.
"""

import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError, invalid
from penstock.ids import partition_for, partition_of
from penstock.messages.schedules import ScheduleCreate, ScheduleGet, ScheduleList
from penstock.store import Store
from penstock.store.references import References
from penstock.store.specs import limit_of, normalize
from penstock_scheduler import pages
from penstock_scheduler.idempotency import created, digest
from penstock_scheduler.schedules import timetable
from penstock_scheduler.schedules.timetable import Rule

log: Final = logging.getLogger(__name__)

_VIEW: Final[dict[str, Any]] = {
    "at": None,
    "every_ms": None,
    "count": None,
    "cron": None,
    "next_at": None,
    "last_due_at": None,
    "last_execution_id": None,
}


class Schedules:
    """Handlers about schedules (no batches), and what is done when one is due."""

    def __init__(
        self, store: Store, references: References, spawn: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self._store = store
        self._references = references
        self._spawn = spawn

    # -- verbs ------------------------------------------------------------------------------------

    async def create(self, call: Call[ScheduleCreate]) -> Sequence[Any]:
        item = call.items[0]
        _check(item)
        execution = item.execution
        normalize(execution)
        for error in (await self._references.missing([execution])).values():
            raise error
        partitions = self._store.partitions
        key, namespace = item.idempotency_key, execution.namespace
        partition = partition_for(f"{namespace}:{key}", partitions) if key else random.randrange(partitions)
        spec: dict[str, Any] = msgspec.to_builtins(execution)
        args: dict[str, Any] = {
            "id": self._store.new_id(partition),
            "input": spec.pop("input", None),
            "spec": spec,
            "limit": limit_of(execution, namespace, partitions),
            "namespace": namespace,
            "idempotency_key": key,
            "digest": key and digest(item),
        }
        args |= {name: getattr(item, name) for name in ("at", "every_ms", "count", "timezone", "misfire")}
        if item.cron is not None:
            now = (await self._store.call(partition, "clock", {}))["now"]
            args["cron"] = item.cron
            args["next_at"] = timetable.following(Rule(cron=item.cron, timezone=item.timezone), now)
        return [created(_view(await self._store.call(partition, "schedule_create", args)))]

    async def get(self, call: Call[ScheduleGet]) -> Sequence[Any]:
        return [_view(await self._ask("schedule_get", call.items[0]))]

    async def list(self, call: Call[ScheduleList]) -> Sequence[Any]:
        item = call.items[0]
        filters = {
            name: value for name in ("namespace", "status") if (value := getattr(item, name)) is not None
        }
        schedules, cursor = await pages.newest(
            self._store, "schedule_list", filters, "schedule_id", item.cursor, item.limit
        )
        return [{"items": [_view(schedule) for schedule in schedules], "cursor": cursor}]

    async def delete(self, call: Call[ScheduleGet]) -> Sequence[Any]:
        return [_view(await self._ask("schedule_delete", call.items[0]))]

    async def pause(self, call: Call[ScheduleGet]) -> Sequence[Any]:
        return [_view(await self._ask("schedule_pause", call.items[0]))]

    async def resume(self, call: Call[ScheduleGet]) -> Sequence[Any]:
        item = call.items[0]
        schedule = await self._ask("schedule_get", item)
        args: dict[str, Any] = {"schedule_id": item.schedule_id}
        if schedule["status"] == "paused":
            was = schedule["next_at"]
            args |= {"was": was, "next_at": timetable.resumed(_rule(schedule), was, schedule["now"])}
        return [_view(await self._store.call(partition_of(item.schedule_id), "schedule_resume", args))]

    async def _ask(self, op: str, item: ScheduleGet) -> dict[str, Any]:
        return await self._store.call(partition_of(item.schedule_id), op, item)

    # -- due times --------------------------------------------------------------------------------

    def due(self, partition: int, reply: dict[str, Any]) -> None:
        """Schedules that the `due` op has handed out."""
        if schedules := reply.get("outside"):
            self._spawn(self._fire(partition, schedules, reply["now"]))

    async def _fire(self, partition: int, schedules: Sequence[dict[str, Any]], now: int) -> None:
        calls: list[tuple[int, str, dict[str, Any]]] = []
        for schedule in schedules:
            try:
                calls.append((partition, "schedule_fire", _fires(self._store, partition, schedule, now)))
            except PenstockError as error:  # the time zones of this machine are other ones
                log.error("schedule %s cannot go on here: %s", schedule["schedule_id"], error)
        for (_, _, args), reply in zip(calls, await self._store.call_many(calls), strict=True):
            if isinstance(reply, PenstockError):
                log.info("schedule %s will be tried again: %s", args["schedule_id"], reply)


def _fires(store: Store, partition: int, schedule: dict[str, Any], now: int) -> dict[str, Any]:
    due_at, count = schedule["due_at"], schedule.get("count")
    left = None if count is None else count - schedule["fired"]
    step = timetable.step(_rule(schedule), due_at, now, misfire=schedule["misfire"], left=left)
    return {
        "schedule_id": schedule["schedule_id"],
        "due_at": due_at,
        "fires": [[at, store.new_id(partition)] for at in step.fires],
        "skipped": step.skipped,
        "next_at": step.next_at,
    }


def _rule(schedule: dict[str, Any]) -> Rule:
    return Rule(schedule.get("every_ms"), schedule.get("cron"), schedule["timezone"])


def _check(item: ScheduleCreate) -> None:
    """Refuses what does not fit together. Raises `invalid_request`, naming the field."""
    given = [name for name in ("at", "every_ms", "cron") if getattr(item, name) is not None]
    if len(given) != 1:
        raise invalid(given[1] if given else "at", "give exactly one of at, every_ms and cron")
    if item.count is not None and item.every_ms is None:
        raise invalid("count", "goes with every_ms only")
    if item.cron is None and item.timezone != "UTC":
        raise invalid("timezone", "goes with cron only")
    for name in ("run_at", "deadline_at"):
        if getattr(item.execution, name) is not None:
            raise invalid(f"execution.{name}", "the schedule says when")


def _view(record: dict[str, Any]) -> dict[str, Any]:
    """The contract's record, null where there is nothing."""
    text = record.pop("input", None)
    record.pop("now", None)
    return {**_VIEW, **record, "execution": {**record["execution"], "input": text}}
