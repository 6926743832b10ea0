"""Schedules, tested over NATS only; the tests move the clock instead of waiting."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from penstock import Client
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.ops.common import Due
from penstock.machine.ops.scheduler import ScheduleFire
from penstock.runtime import start
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence

MINUTE = 60_000
HOUR = 60 * MINUTE


async def now(penstock: RunningPenstock) -> int:
    return (await penstock.get(await penstock.create(lane="clock")))["created_at"]


async def schedule(penstock: RunningPenstock, **spec: Any) -> dict[str, Any]:
    execution = {"kind": "test.tick", **spec.pop("execution", {})}
    return await penstock.request("schedule.create", {"execution": execution, **spec})


async def get(penstock: RunningPenstock, schedule_id: str) -> dict[str, Any]:
    return await penstock.request("schedule.get", {"schedule_id": schedule_id})


async def ticks(penstock: RunningPenstock, **filters: Any) -> list[dict[str, Any]]:
    """Return the executions that schedules have created, oldest first."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        body = {"kind": "test.tick", "limit": 1000, **filters} | ({"cursor": cursor} if cursor else {})
        page = await penstock.request("execution.list", body)
        items += page["items"]
        if (cursor := page["cursor"]) is None:
            return items[::-1]


async def until_ticks(penstock: RunningPenstock, count: int) -> list[dict[str, Any]]:
    return await penstock.until(lambda: ticks(penstock), lambda found: len(found) >= count, f"{count} ticks")


async def due_times(penstock: RunningPenstock, executions: list[dict[str, Any]]) -> list[int]:
    """Return the executions' due times in order; the first event of each execution tells its due time."""
    times: list[int] = []
    for execution in executions:
        page = await penstock.request(
            "execution.history", {"execution_id": execution["execution_id"], "limit": 1}
        )
        times.append(page["items"][0]["data"]["due_at"])
    return sorted(times)


@asynccontextmanager
async def another_scheduler(penstock: RunningPenstock) -> AsyncIterator[Any]:
    build = importlib.import_module("penstock_scheduler.service").build
    settings = msgspec.structs.replace(penstock.settings, instance=f"scheduler-{len(penstock.running)}")
    running = await start("scheduler", build, settings, skew=lambda: penstock.skew_ms)
    penstock.running[settings.instance] = running
    try:
        yield running
    finally:
        del penstock.running[settings.instance]
        await running.stop()


class TestOnce:
    async def test_it_creates_one_execution_at_its_time(self, penstock: RunningPenstock) -> None:
        at = await now(penstock) + HOUR
        spec = {
            "lane": "l",
            "priority": 3,
            "tags": {"a": "b"},
            "input": {"n": 2**60},
            "max_attempts": 2,
            "capabilities": ["gpu", "big", "gpu"],
            "namespace": "team",
        }
        made = await schedule(penstock, at=at, execution=spec)
        assert (made["status"], made["next_at"], made["namespace"]) == ("active", at, "team")
        assert made["execution"]["input"] == {"n": 2**60} and made["execution"]["kind"] == "test.tick"
        assert await get(penstock, made["schedule_id"]) == made
        assert await ticks(penstock) == []
        penstock.move_clock(HOUR)
        [tick] = await until_ticks(penstock, 1)
        assert tick["input"] == {"n": 2**60} and tick["capabilities"] == ["big", "gpu"]
        assert (tick["lane"], tick["priority"], tick["tags"], tick["namespace"]) == (
            "l",
            3,
            {"a": "b"},
            "team",
        )
        assert tick["max_attempts"] == 2
        [first, *_] = (await penstock.request("execution.history", {"execution_id": tick["execution_id"]}))[
            "items"
        ]
        assert first["data"]["schedule_id"] == made["schedule_id"] and first["data"]["due_at"] == at
        ended = await get(penstock, made["schedule_id"])
        assert (ended["status"], ended["next_at"], ended["fired"]) == ("finished", None, 1)
        assert (ended["last_due_at"], ended["last_execution_id"]) == (at, tick["execution_id"])
        penstock.move_clock(HOUR)
        assert len(await ticks(penstock)) == 1

    async def test_the_execution_runs(self, penstock: RunningPenstock) -> None:
        await schedule(penstock, at=await now(penstock) + MINUTE, execution={"input": 5})
        waiting = asyncio.create_task(penstock.begin(wait_ms=20_000, lanes=["default"]))
        penstock.move_clock(MINUTE)
        task = await waiting
        assert task["kind"] == "test.tick" and task["input"] == 5
        assert (await penstock.request("lease.complete", fence(task)))["state"] == "completed"


class TestEvery:
    async def test_it_does_not_drift_and_a_count_ends_it(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, every_ms=HOUR, count=3)
        assert made["next_at"] == made["created_at"] + HOUR
        for n in (1, 2, 3):
            penstock.move_clock(HOUR + n)
            await until_ticks(penstock, n)
        times = await due_times(penstock, await ticks(penstock))
        assert times == [made["created_at"] + HOUR * n for n in (1, 2, 3)]
        ended = await get(penstock, made["schedule_id"])
        assert (ended["status"], ended["fired"]) == ("finished", 3)

    async def test_catch_up_makes_up_for_every_time(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, every_ms=MINUTE, misfire="catch_up")
        penstock.move_clock(130 * MINUTE + 100)
        found = await until_ticks(penstock, 130)
        assert await due_times(penstock, found) == [made["created_at"] + MINUTE * n for n in range(1, 131)]

    async def test_skip_does_not(self, penstock: RunningPenstock) -> None:
        audit = await penstock.nats.subscribe(f"{penstock.root}.audit.*.schedule.misfired.*")
        made = await schedule(penstock, every_ms=HOUR, misfire="skip")
        penstock.move_clock(10 * HOUR + 2 * MINUTE)
        next_at = made["created_at"] + 11 * HOUR
        await penstock.until(
            lambda: get(penstock, made["schedule_id"]), lambda s: s["next_at"] == next_at, "the next time"
        )
        assert await ticks(penstock) == []
        event = msgspec.json.decode((await audit.next_msg(timeout=WAIT_S)).data)
        assert event["id"] == made["schedule_id"] and event["data"]["skipped"] == 10
        told = await get(penstock, made["schedule_id"])
        assert told["missed"] == 10 and told["missed_at"] >= made["created_at"] + 10 * HOUR
        penstock.move_clock(HOUR - 2 * MINUTE)
        [tick] = await until_ticks(penstock, 1)
        assert await due_times(penstock, [tick]) == [next_at]

    async def test_the_next_times(self, penstock: RunningPenstock) -> None:
        async def times(made: dict[str, Any], **request: int) -> list[int]:
            body = {"schedule_id": made["schedule_id"], **request}
            return (await penstock.request("schedule.times", body)).get("times", [])

        made = await schedule(penstock, every_ms=HOUR, count=25)
        assert await times(made) == [made["created_at"] + HOUR * n for n in range(1, 21)]
        assert len(await times(made, limit=100)) == 25
        penstock.move_clock(HOUR)
        await until_ticks(penstock, 1)
        assert len(await times(made, limit=100)) == 24
        await penstock.request("schedule.pause", {"schedule_id": made["schedule_id"]})
        assert await times(made) == []
        by_cron = await schedule(penstock, cron="0 3 * * *")
        first, second = await times(by_cron, limit=2)
        assert (first, second) == (by_cron["next_at"], first + 24 * HOUR)

    async def test_short_ones_in_real_time(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, every_ms=20, count=20)
        found = await until_ticks(penstock, 20)
        assert await due_times(penstock, found) == [made["created_at"] + 20 * n for n in range(1, 21)]
        assert (await get(penstock, made["schedule_id"]))["status"] == "finished"


class TestCron:
    async def test_it_fires_as_cron_says(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, cron="0 * * * *", timezone="Europe/Berlin")
        assert made["next_at"] % HOUR == 0 and 0 < made["next_at"] - made["created_at"] <= HOUR
        penstock.move_clock(3 * HOUR)
        found = await until_ticks(penstock, 3)
        assert await due_times(penstock, found) == [made["next_at"] + HOUR * n for n in range(3)]


class TestPause:
    async def test_times_that_pass_meanwhile_do_not_happen(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, every_ms=HOUR)
        body = {"schedule_id": made["schedule_id"]}
        assert (await penstock.request("schedule.pause", body))["status"] == "paused"
        assert (await penstock.request("schedule.pause", body))["status"] == "paused"
        penstock.move_clock(5 * HOUR + MINUTE)
        resumed = await penstock.request("schedule.resume", body)
        assert resumed["status"] == "active" and resumed["next_at"] == made["created_at"] + 6 * HOUR
        assert await penstock.request("schedule.resume", body) == resumed
        assert await ticks(penstock) == []
        penstock.move_clock(HOUR)
        await until_ticks(penstock, 1)

    async def test_a_single_time_that_passed_is_made_up_for(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, at=await now(penstock) + HOUR)
        body = {"schedule_id": made["schedule_id"]}
        await penstock.request("schedule.pause", body)
        penstock.move_clock(2 * HOUR)
        await penstock.request("schedule.resume", body)
        await until_ticks(penstock, 1)
        await penstock.until(lambda: get(penstock, made["schedule_id"]), lambda s: s["status"] == "finished")
        assert (await penstock.refused("schedule.resume", body)).code == "already_terminal"

    async def test_a_deleted_one_is_gone(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, every_ms=HOUR)
        body = {"schedule_id": made["schedule_id"]}
        await penstock.request("schedule.delete", body)
        for verb in ("schedule.get", "schedule.delete", "schedule.pause", "schedule.resume"):
            assert (await penstock.refused(verb, body)).code == "schedule_not_found"
        penstock.move_clock(2 * HOUR)
        assert await ticks(penstock) == []


class TestLists:
    async def test_pages_and_filters(self, penstock: RunningPenstock) -> None:
        ids = [(await schedule(penstock, every_ms=HOUR))["schedule_id"] for _ in range(5)]
        await penstock.request("schedule.pause", {"schedule_id": ids[1]})
        other = await schedule(penstock, every_ms=HOUR, execution={"namespace": "other"})
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await penstock.request("schedule.list", {"namespace": "default", "limit": 2, **cursor})
            found += [item["schedule_id"] for item in page["items"]]
            if page["cursor"] is None:
                break
            cursor = {"cursor": page["cursor"]}
        assert found == ids[::-1]
        page = await penstock.request("schedule.list", {"status": "paused"})
        assert [item["schedule_id"] for item in page["items"]] == [ids[1]]
        page = await penstock.request("schedule.list", {"namespace": "other"})
        assert [item["schedule_id"] for item in page["items"]] == [other["schedule_id"]]


class TestBadInput:
    @pytest.mark.parametrize(
        ("spec", "field"),
        [
            ({}, "at"),
            ({"at": 1}, "at"),
            ({"at": 2**47, "every_ms": 5}, "every_ms"),
            ({"every_ms": 5, "cron": "* * * * *"}, "cron"),
            ({"every_ms": 0}, "every_ms"),
            ({"every_ms": -5}, "every_ms"),
            ({"every_ms": 5, "count": 0}, "count"),
            ({"cron": "* * * * *", "count": 3}, "count"),
            ({"cron": "0 0 31 2 *"}, "cron"),
            ({"cron": "not a cron"}, "cron"),
            ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "timezone"),
            ({"every_ms": 5, "timezone": "Europe/Berlin"}, "timezone"),
            ({"every_ms": 5, "misfire": "explode"}, "misfire"),
            ({"every_ms": 5, "execution": {"run_at": 5}}, "execution.run_at"),
            ({"every_ms": 5, "execution": {"deadline_at": 5}}, "execution.deadline_at"),
            ({"every_ms": 5, "execution": {"idempotency_key": "x"}}, "idempotency_key"),
            ({"every_ms": 5, "execution": {"lane": "a b"}}, "execution.lane"),
            ({"every_ms": 5, "surprise": 1}, "surprise"),
        ],
    )
    async def test_it_is_refused_by_its_field(self, penstock: RunningPenstock, spec: Any, field: str) -> None:
        body = {**spec, "execution": {"kind": "test.tick", **spec.get("execution", {})}}
        error = await penstock.refused("schedule.create", body)
        assert error.code == "invalid_request" and field in (error.detail.get("field") or error.message)

    async def test_what_it_names_must_exist(self, penstock: RunningPenstock) -> None:
        for field, code in (("quota_id", "quota_not_found"), ("budget_ids", "budget_not_found")):
            value: Any = [NOWHERE] if field == "budget_ids" else NOWHERE
            body = {"every_ms": 5, "execution": {"kind": "t", field: value}}
            assert (await penstock.refused("schedule.create", body)).code == code
        assert (await penstock.refused("schedule.get", {"schedule_id": NOWHERE})).code == "schedule_not_found"

    async def test_creating_is_idempotent(self, penstock: RunningPenstock) -> None:
        body: Any = {"every_ms": HOUR, "execution": {"kind": "t", "input": [1]}, "idempotency_key": "k"}
        first = await penstock.request("schedule.create", body)
        assert first["duplicate"] is False
        assert await penstock.request("schedule.create", body) == {**first, "duplicate": True}
        error = await penstock.refused("schedule.create", {**body, "every_ms": 5})
        assert error.code == "idempotency_conflict"


class TestExactlyOnce:
    async def test_with_two_schedulers(self, penstock: RunningPenstock) -> None:
        async with another_scheduler(penstock):
            made = [await schedule(penstock, every_ms=MINUTE, count=20) for _ in range(10)]
            for _ in range(20):
                # Both schedulers look for due schedules, whichever of them owns the partition.
                penstock.move_clock(MINUTE)
                await asyncio.gather(
                    *(
                        running.context.machine.run(Due(limit=100), at=0)
                        for name, running in penstock.running.items()
                        if name.startswith("scheduler")
                    )
                )
                penstock.move_clock(2000)  # schedules handed out above but not fired are handed out again
            found = await until_ticks(penstock, 200)
            times = await due_times(penstock, found)
            expected = [each["created_at"] + MINUTE * n for each in made for n in range(1, 21)]
            assert times == sorted(expected)

    async def test_one_that_dies_between_due_and_fire(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, at=await now(penstock) + HOUR)
        await penstock.running["scheduler"].stop()
        del penstock.running["scheduler"]
        penstock.move_clock(HOUR)
        dying = await Machine.connect(
            penstock.settings.valkey_url,
            service="scheduler",
            root=penstock.root,
            partitions=penstock.settings.partitions,
            dev=True,
            skew=lambda: penstock.skew_ms,
        )
        partition = partition_of(made["schedule_id"])
        handed_out = await dying.run(Due(limit=100), at=partition)
        assert [each["schedule_id"] for each in handed_out.outside] == [made["schedule_id"]]
        assert not (await dying.run(Due(limit=100), at=partition)).outside
        async with another_scheduler(penstock):
            [tick] = await until_ticks(penstock, 1)
            # The first scheduler was slow, not dead: its late fire must do nothing.
            late = ScheduleFire(
                schedule_id=made["schedule_id"],
                due_at=made["next_at"],
                fires=[(made["next_at"], NOWHERE)],
                skipped=0,
            )
            assert (await dying.run(late)).fired == 0
            assert [each["execution_id"] for each in await ticks(penstock)] == [tick["execution_id"]]
        await dying.close()

    async def test_a_draining_lane_makes_it_wait(self, penstock: RunningPenstock) -> None:
        await penstock.create(lane="l")
        await penstock.request("lane.drain", {"lane": "l"})
        made = await schedule(penstock, every_ms=HOUR, execution={"lane": "l"})
        penstock.move_clock(HOUR)
        penstock.move_clock(2500)
        assert await ticks(penstock) == []
        await penstock.request("lane.resume", {"lane": "l"})
        penstock.move_clock(2500)
        [tick] = await until_ticks(penstock, 1)
        assert await due_times(penstock, [tick]) == [made["next_at"]]


async def test_events(penstock: RunningPenstock) -> None:
    audit = await penstock.nats.subscribe(f"{penstock.root}.audit.*.schedule.*.*")
    made = await schedule(penstock, every_ms=HOUR, count=1)
    body = {"schedule_id": made["schedule_id"]}
    await penstock.request("schedule.pause", body)
    await penstock.request("schedule.resume", body)
    penstock.move_clock(HOUR)
    await until_ticks(penstock, 1)
    await penstock.request("schedule.delete", body)
    events = [msgspec.json.decode((await audit.next_msg(timeout=WAIT_S)).data) for _ in range(6)]
    assert [event["event"] for event in events] == [
        "created",
        "paused",
        "resumed",
        "fired",
        "finished",
        "deleted",
    ]
    assert [event["seq"] for event in events] == list(range(1, 7))


async def test_the_sdk(penstock: RunningPenstock) -> None:
    async with await Client.connect(penstock.settings.nats_url, root=penstock.root) as client:
        made = await client.schedules.create("test.tick", {"a": 1}, every_ms=HOUR, tags={"x": "y"})
        assert made.execution.input == {"a": 1} and made.execution.tags == {"x": "y"}
        assert (await client.schedules.pause(made.schedule_id)).status == "paused"
        assert (await client.schedules.resume(made.schedule_id)).status == "active"
        assert [each.schedule_id async for each in client.schedules.list()] == [made.schedule_id]
        await client.schedules.delete(made.schedule_id)
        with pytest.raises(Exception, match="schedule_not_found"):
            await client.schedules.get(made.schedule_id)


class TestTriggered:
    async def test_it_creates_one_execution_now_and_its_due_times_stay(
        self, penstock: RunningPenstock
    ) -> None:
        made = await schedule(
            penstock, every_ms=HOUR, count=3, execution={"input": {"a": 1}, "lane": "nightly"}
        )
        triggered = await penstock.request("schedule.trigger", {"schedule_id": made["schedule_id"]})
        execution = await penstock.get(triggered["execution_id"])
        assert (execution["input"], execution["lane"], execution["state"]) == ({"a": 1}, "nightly", "ready")
        after = await get(penstock, made["schedule_id"])
        assert (after["next_at"], after["fired"]) == (made["next_at"], 0)
        ask = {"execution_id": triggered["execution_id"], "limit": 1}
        (created,) = (await penstock.request("execution.history", ask))["items"]
        assert created["data"]["schedule_id"] == made["schedule_id"]

    async def test_a_paused_one_can_be_triggered_a_finished_one_cannot(
        self, penstock: RunningPenstock
    ) -> None:
        made = await schedule(penstock, every_ms=HOUR, count=1)
        ask = {"schedule_id": made["schedule_id"]}
        await penstock.request("schedule.pause", ask)
        assert (await penstock.request("schedule.trigger", ask))["state"] == "ready"
        await penstock.request("schedule.resume", ask)
        penstock.move_clock(HOUR)
        await penstock.until(
            lambda: get(penstock, made["schedule_id"]), lambda found: found["status"] == "finished", "its end"
        )
        assert (await penstock.refused("schedule.trigger", ask)).code == "already_terminal"
        assert (
            await penstock.refused("schedule.trigger", {"schedule_id": NOWHERE})
        ).code == "schedule_not_found"

    async def test_the_same_key_triggers_once(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, every_ms=HOUR)
        ask = {"schedule_id": made["schedule_id"], "idempotency_key": "once"}
        first, again = [await penstock.request("schedule.trigger", ask) for _ in range(2)]
        assert again == first | {"duplicate": True}
        assert len(await ticks(penstock)) == 1


class TestUpdated:
    async def test_a_new_timing_begins_anew(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, every_ms=HOUR)
        changed = await penstock.request(
            "schedule.update", {"schedule_id": made["schedule_id"], "every_ms": MINUTE, "misfire": "skip"}
        )
        assert (changed["every_ms"], changed["misfire"]) == (MINUTE, "skip")
        assert changed["next_at"] < made["next_at"]
        penstock.move_clock(MINUTE)
        assert len(await until_ticks(penstock, 1)) == 1
        cron = await penstock.request(
            "schedule.update",
            {"schedule_id": made["schedule_id"], "cron": "0 6 * * *", "timezone": "Europe/Berlin"},
        )
        assert (cron["every_ms"], cron["cron"], cron["timezone"]) == (None, "0 6 * * *", "Europe/Berlin")

    async def test_a_new_spec_is_for_the_executions_to_come(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, every_ms=HOUR, execution={"input": {"old": 1}, "lane": "before"})
        ask = {"schedule_id": made["schedule_id"], "execution": {"kind": "test.tick", "lane": "after"}}
        changed = await penstock.request("schedule.update", ask)
        assert (changed["next_at"], changed["every_ms"]) == (made["next_at"], HOUR)
        penstock.move_clock(HOUR)
        (execution,) = await until_ticks(penstock, 1)
        assert (execution["lane"], execution["input"]) == ("after", None)

    async def test_what_does_not_fit_changes_nothing(self, penstock: RunningPenstock) -> None:
        made = await schedule(penstock, every_ms=HOUR)
        for wrong in (
            {"at": 1, "every_ms": 1},
            {"count": 5},
            {"timezone": "Europe/Berlin"},
            {"at": 1},
            {"cron": "nonsense"},
            {"execution": {"kind": "test.tick", "namespace": "other"}},
            {"execution": {"kind": "test.tick", "run_at": 5}},
        ):
            ask = {"schedule_id": made["schedule_id"], **wrong}
            assert (await penstock.refused("schedule.update", ask)).code == "invalid_request", wrong
        now_ = await get(penstock, made["schedule_id"])
        assert now_ == made
