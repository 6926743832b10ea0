"""execution.bulk: every action, progress, rate, stop, and schedulers that are stopped in between."""

from typing import Any

import msgspec
import pytest

from penstock.errors import PenstockError
from penstock.machine.ops import scheduler as ops
from penstock.messages.search import ExecutionRow
from penstock_scheduler.searching.actions import change
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence


async def bulk(penstock: RunningPenstock, action: str, wanted: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Make a bulk change and wait until it is finished."""
    made = await penstock.request(
        "execution.bulk", {"filter": wanted, "action": action, "rate": 1000, **more}
    )
    assert made["status"] == "running"
    return await ended(penstock, made["bulk_id"])


async def ended(penstock: RunningPenstock, bulk_id: str) -> dict[str, Any]:
    return await penstock.until(
        lambda: penstock.request("bulk.get", {"bulk_id": bulk_id}),
        lambda seen: seen["status"] != "running",
        "its end",
    )


async def create(penstock: RunningPenstock, count: int, **spec: Any) -> list[str]:
    made = await penstock.request("execution.create", [{"kind": "test.job", **spec}] * count)
    return [each["ok"]["execution_id"] for each in made]


async def states(penstock: RunningPenstock, ids: list[str]) -> set[str]:
    records = await penstock.request("execution.get", [{"execution_id": each} for each in ids])
    return {each["ok"]["state"] for each in records}


async def test_cancel_all_that_match_and_no_others(penstock: RunningPenstock) -> None:
    ids = await create(penstock, 120, lane="a")
    others = await create(penstock, 3, lane="b")
    done = await bulk(penstock, "cancel", {"lane": "a", "states": ["ready"]}, reason="enough")
    assert (done["status"], done["done"], done["refused"]) == ("finished", 120, 0)
    assert done["looked"] >= 120 and done["finished_at"] >= done["created_at"]
    assert await states(penstock, ids) == {"canceled"}
    assert await states(penstock, others) == {"ready"}
    history = await penstock.request("execution.history", {"execution_id": ids[0]})
    assert history["items"][-1]["reason"] == "enough"


async def test_replay_priority_tags_and_run_now(penstock: RunningPenstock) -> None:
    ids = await create(penstock, 3, lane="a", input={"n": 1}, tags={"old": "1"})
    await bulk(penstock, "change_priority", {"lane": "a"}, priority=7)
    await bulk(penstock, "set_tags", {"lane": "a"}, tags={"new": "2"})
    record = await penstock.get(ids[0])
    assert (record["priority"], record["tags"]) == (7, {"old": "1", "new": "2"})
    later = await create(penstock, 2, lane="later", run_at=4_000_000_000_000)
    assert (await bulk(penstock, "run_now", {"lane": "later"}))["done"] == 2
    assert await states(penstock, later) == {"ready"}
    refused = await bulk(penstock, "replay", {"lane": "a"})
    assert (refused["done"], refused["refused"], refused["status"]) == (0, 3, "finished")
    assert refused["last_error"]["code"] == "execution_not_eligible"
    assert refused["last_error"]["execution_id"] in ids
    for task in await penstock.take(3, lanes=["a"], start=True):
        await penstock.request("lease.fail", fence(task) | {"reason": "no", "category": "oops"})
    assert (await bulk(penstock, "replay", {"failure_category": "oops"}))["done"] == 3
    found = (await penstock.request("execution.search", {"filter": {"lane": "a", "states": ["ready"]}}))[
        "items"
    ]
    assert {row["replay_of"] for row in found} == set(ids) and len(found) == 3
    assert (await penstock.get(found[0]["execution_id"]))["input"] == {"n": 1}


async def test_suspend_and_resume(penstock: RunningPenstock) -> None:
    ids = await create(penstock, 2)
    await penstock.take(2, start=True)
    assert (await bulk(penstock, "suspend", {"states": ["running"]}, reason="look"))["done"] == 2
    assert await states(penstock, ids) == {"suspended"}
    assert (await bulk(penstock, "resume", {"states": ["suspended"]}))["done"] == 2
    assert await states(penstock, ids) == {"ready"}


async def test_revoke_takes_the_leases_away(penstock: RunningPenstock) -> None:
    ids = await create(penstock, 3)
    tasks = await penstock.take(2, start=True)
    done = await bulk(penstock, "revoke", {}, reason="that host is going")
    assert (done["done"], done["refused"], done["last_error"]["code"]) == (2, 1, "no_active_lease")
    assert await states(penstock, ids) == {"ready"}
    error = await penstock.refused("lease.renew", fence(tasks[0]))
    assert error.code == "lease_revoked"
    record = await penstock.get(tasks[0]["execution_id"])
    assert (record["attempt_index"], record["reclaims"]) == (1, 0)
    history = await penstock.request("execution.history", {"execution_id": tasks[0]["execution_id"]})
    assert history["items"][-1]["data"]["reason"] == "that host is going"


async def suspended(penstock: RunningPenstock, count: int, **spec: Any) -> list[str]:
    """Create executions that wait for the signal `go` at a waitpoint with the key `door`."""
    ids = await create(penstock, count, **spec)
    left = count
    while left:  # one answer holds a bounded number of tasks
        tasks = await penstock.take(left, start=True)
        for task in tasks:
            await wait_at(penstock, task)
        left -= len(tasks)
    return ids


async def wait_at(penstock: RunningPenstock, task: dict[str, Any], key: str = "door") -> dict[str, Any]:
    wait = {"condition": {"name": "go"}, "waitpoint_key": key}
    return await penstock.request("lease.suspend", fence(task) | wait)


async def test_signal_reaches_each_that_waits(penstock: RunningPenstock) -> None:
    ids = await suspended(penstock, 3)
    (other,) = await create(penstock, 1)
    large = {"text": "x" * 5000}  # kept beside the record of the bulk change
    done = await bulk(
        penstock, "signal", {}, name="go", payload=large, waitpoint_key="door", reason="all of them"
    )
    assert (done["done"], done["refused"], done["last_error"]["code"]) == (3, 1, "waitpoint_not_found")
    assert done["name"] == "go" and done["waitpoint_key"] == "door" and "payload" not in done
    assert await states(penstock, ids) == {"ready"}
    assert done["last_error"]["execution_id"] == other
    # All of them are taken, to find those that were resumed.
    for task in await penstock.take(4, start=True):
        signals = (await penstock.request("signal.resumed_by", fence(task)))["items"]
        expected = [] if task["execution_id"] == other else [("go", large)]
        assert [(each["name"], each["payload"]) for each in signals] == expected
    assert any(":payload:" in key for key in await penstock.keys())
    penstock.move_clock(8 * 86_400_000)

    async def payloads() -> list[str]:
        return [key for key in await penstock.keys() if ":payload:" in key]

    await penstock.until(payloads, lambda left: not left, "the payload's leaving")


async def test_a_step_made_twice_signals_once(penstock: RunningPenstock) -> None:
    """The scheduler dies after a step has signalled and before it has noted that; by then the next wait has begun."""
    (waits,) = await suspended(penstock, 1, lane="default")
    kept, rows = await a_step(penstock, "signal", waits, name="go")
    machine = penstock.running["scheduler"].context.machine
    (first,) = await change(machine, kept, rows)
    assert first.effect == "resumed" and waits in first.signal_id and kept.bulk_id in first.signal_id
    task = await penstock.begin()
    again = await wait_at(penstock, task, "second")
    (repeated,) = await change(machine, kept, rows)
    assert (repeated.effect, repeated.signal_id) == ("duplicate", first.signal_id)
    assert (await penstock.get(waits))["state"] == "suspended"
    assert (await penstock.request("signal.list", {"waitpoint_id": again["waitpoint_id"]}))["items"] == []
    # Another bulk change is another signal.
    assert (await bulk(penstock, "signal", {}, name="go"))["done"] == 1
    assert (await penstock.get(waits))["state"] == "ready"


async def test_a_step_made_twice_takes_one_lease(penstock: RunningPenstock) -> None:
    (held,) = await create(penstock, 1)
    await penstock.begin()
    kept, rows = await a_step(penstock, "revoke", held)
    machine = penstock.running["scheduler"].context.machine
    await change(machine, kept, rows)
    task = await penstock.begin()
    (repeated,) = await change(machine, kept, rows)
    assert repeated.state == "running"
    await penstock.request("lease.renew", fence(task))


async def test_a_step_made_twice_holds_and_resumes_once(penstock: RunningPenstock) -> None:
    (id,) = await create(penstock, 1)
    await penstock.begin()
    machine = penstock.running["scheduler"].context.machine
    hold, rows = await a_step(penstock, "suspend", id)
    await change(machine, hold, rows)
    resume, rows = await a_step(penstock, "resume", id)
    await change(machine, resume, rows)
    await penstock.begin()
    assert (await change(machine, hold, rows))[0].state == "running"
    await bulk(penstock, "suspend", {})
    assert (await change(machine, resume, rows))[0].state == "suspended"


async def a_step(
    penstock: RunningPenstock, action: str, execution_id: str, **more: Any
) -> tuple[ops.BulkKept, list[ExecutionRow]]:
    """Return a bulk change that has matched nothing, and the row that its step would have found."""
    made = await bulk(penstock, action, {"lane": "nobodys"}, **more)
    kept = await penstock.running["scheduler"].context.machine.run(ops.BulkGet(bulk_id=made["bulk_id"]))
    found = (await penstock.request("execution.search", {"filter": {"text": execution_id}}))["items"]
    return kept, [msgspec.convert(each, ExecutionRow) for each in found]


async def test_a_signal_of_many_is_small(penstock: RunningPenstock) -> None:
    ask = {"filter": {}, "action": "signal", "name": "go", "payload": "x" * 65_536}
    error = await penstock.refused("execution.bulk", ask)
    assert (error.code, error.detail["field"], error.detail["limit"]) == (
        "payload_too_large",
        "payload",
        65_536,
    )


async def test_most_bounds_it_and_stop_ends_it(penstock: RunningPenstock) -> None:
    ids = await create(penstock, 10)
    done = await bulk(penstock, "change_priority", {}, priority=1, most=4)
    assert (done["status"], done["done"]) == ("finished", 4)
    assert [(await penstock.get(each))["priority"] for each in ids].count(1) == 4
    ask = {"filter": {}, "action": "cancel", "rate": 1}
    slow = await penstock.request("execution.bulk", ask)
    running = await penstock.request("bulk.list", {"status": "running"})
    assert [each["bulk_id"] for each in running["items"]] == [slow["bulk_id"]]
    stopped = await penstock.request("bulk.stop", {"bulk_id": slow["bulk_id"]})
    assert stopped["status"] == "stopped"
    assert await penstock.request("bulk.stop", {"bulk_id": slow["bulk_id"]}) == stopped
    penstock.move_clock(60_000)  # no step is made any more
    assert (await ended(penstock, slow["bulk_id"]))["done"] == stopped["done"]
    assert "ready" in await states(penstock, ids)
    listed = await penstock.request("bulk.list")
    assert [each["status"] for each in listed["items"]] == ["stopped", "finished"]


async def test_the_rate_paces_it_and_its_events_tell(penstock: RunningPenstock) -> None:
    await create(penstock, 5)
    heard = await penstock.nats.subscribe(f"{penstock.root}.audit.*.bulk.*.*")
    made = await penstock.request("execution.bulk", {"filter": {}, "action": "cancel", "rate": 1})
    for done in range(1, 6):
        await penstock.until(
            lambda: penstock.request("bulk.get", {"bulk_id": made["bulk_id"]}),
            lambda seen, done=done: seen["done"] == done,
            f"{done} done",
        )
        penstock.move_clock(1000)
    await ended(penstock, made["bulk_id"])
    events = []
    while not events or events[-1]["event"] != "finished":
        events.append(msgspec.json.decode((await heard.next_msg(timeout=WAIT_S)).data))
    assert events[0]["event"] == "created" and events[0]["data"]["action"] == "cancel"
    assert "progress" in {each["event"] for each in events}
    assert events[-1]["data"]["done"] == 5


async def test_another_scheduler_goes_on(penstock: RunningPenstock) -> None:
    ids = await create(penstock, 300, lane="a")
    made = await penstock.request(
        "execution.bulk", {"filter": {"lane": "a"}, "action": "cancel", "rate": 1000}
    )
    await penstock.running["scheduler"].stop()
    await penstock.start_again("scheduler")
    penstock.move_clock(10_000)  # what the first one had in its hands is handed out again
    done = await ended(penstock, made["bulk_id"])
    assert done["status"] == "finished"
    assert await states(penstock, ids) == {"canceled"}


async def test_another_scheduler_goes_on_with_signals(penstock: RunningPenstock) -> None:
    ids = await suspended(penstock, 120)
    made = await penstock.request(
        "execution.bulk", {"filter": {}, "action": "signal", "name": "go", "rate": 100}
    )
    await penstock.running["scheduler"].stop()
    await penstock.start_again("scheduler")
    penstock.move_clock(10_000)
    await penstock.until(lambda: states(penstock, ids), lambda seen: seen == {"ready"}, "the last signal")
    await penstock.request("bulk.stop", {"bulk_id": made["bulk_id"]})
    received: list[dict[str, int]] = []
    page: dict[str, Any] = {"cursor": None}
    while page["cursor"] or not received:
        page = await penstock.request("waitpoint.list", {"status": "closed", "cursor": page["cursor"]})
        received += [each["received"] for each in page["items"]]
    assert received == [{"go": 1}] * len(ids)


async def test_a_step_made_twice_replays_once(penstock: RunningPenstock) -> None:
    (old,) = await create(penstock, 1, lane="a")
    await penstock.request("execution.cancel", {"execution_id": old})
    machine = penstock.running["scheduler"].context.machine
    made = await penstock.request("execution.bulk", {"filter": {"lane": "b"}, "action": "replay"})
    await ended(penstock, made["bulk_id"])
    kept = await machine.run(ops.BulkGet(bulk_id=made["bulk_id"]))
    row = (await penstock.request("execution.search", {"filter": {"lane": "a"}}))["items"][0]
    rows = [msgspec.convert(row, ExecutionRow)]
    first, again = [await change(machine, kept, rows) for _ in range(2)]
    assert first[0].execution_id == again[0].execution_id
    assert len((await penstock.request("execution.list", {"lane": "a"}))["items"]) == 2


async def test_the_same_key_makes_one(penstock: RunningPenstock) -> None:
    ask = {"filter": {"lane": "a"}, "action": "cancel", "idempotency_key": "k"}
    first = await penstock.request("execution.bulk", ask)
    again = await penstock.request("execution.bulk", ask)
    assert again["bulk_id"] == first["bulk_id"] and again["duplicate"]
    error = await penstock.refused("execution.bulk", ask | {"action": "resume"})
    assert error.code == "idempotency_conflict"


async def test_it_leaves_after_the_retention(penstock: RunningPenstock) -> None:
    done = await bulk(penstock, "cancel", {})
    penstock.move_clock(8 * 86_400_000)

    async def code() -> str | None:
        try:
            await penstock.request("bulk.get", {"bulk_id": done["bulk_id"]})
        except PenstockError as error:
            return error.code
        return None

    await penstock.until(code, lambda seen: seen == "bulk_not_found", "its leaving")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"action": "explode"}, "action"),
        ({"action": "cancel", "priority": 1}, "priority"),
        ({"action": "change_priority"}, "priority"),
        ({"action": "set_tags", "tags": {}}, "tags"),
        ({"action": "replay", "reason": "x"}, "reason"),
        ({"action": "signal"}, "name"),
        ({"action": "revoke", "name": "go"}, "name"),
        ({"action": "resume", "payload": 1}, "payload"),
        ({"action": "cancel", "waitpoint_key": "k"}, "waitpoint_key"),
        ({"action": "revoke", "grace_ms": 1}, "grace_ms"),
        ({"action": "cancel", "rate": 0}, "rate"),
        ({"action": "cancel", "filter": {"failure_group": "0" * 16}}, "filter.failure_group"),
    ],
)
async def test_what_does_not_fit_is_refused(
    penstock: RunningPenstock, wrong: dict[str, Any], field: str
) -> None:
    error = await penstock.refused("execution.bulk", {"filter": {}} | wrong)
    assert (error.code, error.detail["field"]) == ("invalid_request", field)
    for verb in ("bulk.get", "bulk.stop"):
        assert (await penstock.refused(verb, {"bulk_id": NOWHERE})).code == "bulk_not_found"
    assert (await penstock.request("bulk.list"))["items"] == []
