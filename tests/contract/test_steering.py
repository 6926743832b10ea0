"""An operator controls executions: revoke, run now, priority, tags, replay."""

import asyncio
from typing import Any

from lifecycles import HOUR_MS, last, names, now, outcome, running, working
from penstock import Task
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence


async def test_revoke(penstock: RunningPenstock) -> None:
    task = await running(penstock, max_reclaims=0)
    execution_id = task["execution_id"]
    told = await penstock.nats.subscribe(f"{penstock.root}.worker.w1", max_msgs=1)
    body = {"execution_id": execution_id, "reason": "stuck"}
    assert await penstock.request("lease.revoke", body) == {"state": "ready"}
    assert (await told.next_msg(timeout=WAIT_S)).data
    for verb in ("renew", "complete"):
        assert (await penstock.refused(f"lease.{verb}", fence(task))).code == "lease_revoked"
    record = await penstock.get(execution_id)
    assert (record["reclaims"], record["attempt_index"]) == (0, 1)
    event = await last(penstock, execution_id)
    assert (event["event"], event["reason"], event["actor"]) == ("reclaimed", "lease_revoked", "operator")
    assert event["data"]["reason"] == "stuck"
    error = await penstock.refused("lease.revoke", body)
    assert (error.code, error.detail) == ("no_active_lease", {"state": "ready"})
    again = await penstock.begin(worker_id="w2")
    assert again["attempt_index"] == 1 and again["lease_epoch"] == task["lease_epoch"] + 1
    await outcome(penstock, "complete", again)
    assert (await penstock.refused("lease.revoke", body)).code == "no_active_lease"
    error = await penstock.refused("lease.revoke", {"execution_id": NOWHERE})
    assert error.code == "execution_not_found"


async def test_revoked_after_cancellation_was_asked_for(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    body = {"execution_id": task["execution_id"]}
    await penstock.request("execution.cancel", body | {"grace_ms": HOUR_MS})
    assert await penstock.request("lease.revoke", body) == {"state": "canceled"}


async def test_run_now(penstock: RunningPenstock) -> None:
    async def run_now(execution_id: str) -> tuple[str, str | None]:
        record = await penstock.request("execution.run_now", {"execution_id": execution_id})
        return record["state"], record["reason"]

    at = await now(penstock) + HOUR_MS
    scheduled = await penstock.create(run_at=at)
    assert (await penstock.get(scheduled))["state"] == "scheduled"
    assert await run_now(scheduled) == ("ready", None)
    assert await run_now(scheduled) == ("ready", None)
    assert (await names(penstock, scheduled)).count("ready") == 1
    task = await penstock.begin()
    error = await penstock.refused("execution.run_now", {"execution_id": scheduled})
    assert (error.code, error.detail) == ("execution_not_eligible", {"state": "running"})
    await outcome(penstock, "delay", task, until=at)
    assert await run_now(scheduled) == ("ready", None)
    task = await penstock.begin()
    assert task["resumed"]
    await penstock.create(parent_id=scheduled, lane="elsewhere")
    await outcome(penstock, "await_children", task)
    error = await penstock.refused("execution.run_now", {"execution_id": scheduled})
    assert error.detail == {"state": "suspended", "reason": "children"}

    retried = await penstock.create(max_attempts=2, backoff={"kind": "fixed", "delay_ms": HOUR_MS})
    await outcome(penstock, "fail", await penstock.begin(), reason="r")
    assert await run_now(retried) == ("ready", None)
    task = await penstock.begin()
    assert (task["attempt_index"], task["resumed"]) == (2, False)
    await outcome(penstock, "fail", task, reason="r")
    error = await penstock.refused("execution.run_now", {"execution_id": retried})
    assert (error.code, error.detail) == ("retry_exhausted", {"attempt_index": 2, "max_attempts": 2})


async def test_run_now_of_what_has_ended(penstock: RunningPenstock) -> None:
    task = await running(penstock, max_attempts=5, fail_on=["fatal"])
    await outcome(penstock, "fail", task, reason="r", category="fatal")
    error = await penstock.refused("execution.run_now", {"execution_id": task["execution_id"]})
    assert (error.code, error.detail) == ("already_terminal", {"state": "failed", "outcome": "failed"})
    assert (
        await penstock.refused("execution.run_now", {"execution_id": NOWHERE})
    ).code == "execution_not_found"


async def test_run_now_of_a_member_that_waits(penstock: RunningPenstock) -> None:
    flow = await penstock.request(
        "flow.create",
        {
            "controller_id": "c",
            "goal": "g",
            "owner": "o",
            "members": [{"key": "a", "kind": "k"}, {"key": "b", "kind": "k"}],
            "edges": [{"from": "a", "to": "b"}],
        },
    )
    error = await penstock.refused("execution.run_now", {"execution_id": flow["members"]["b"]})
    assert (error.code, error.detail) == (
        "execution_not_eligible",
        {"state": "scheduled", "reason": "dependencies"},
    )


async def test_change_priority(penstock: RunningPenstock) -> None:
    ids = [await penstock.create() for _ in range(3)]
    record = await penstock.request("execution.change_priority", {"execution_id": ids[2], "priority": 9})
    assert record["priority"] == 9
    await penstock.request("execution.change_priority", {"execution_id": ids[0], "priority": -1})
    tasks = await penstock.take(3)
    assert [task["execution_id"] for task in tasks] == [ids[2], ids[1], ids[0]]
    event = await penstock.request("execution.history", {"execution_id": ids[2]})
    assert event["items"][1]["data"] == {"priority": 9, "before": 0}
    await outcome(penstock, "cancel", tasks[0])
    error = await penstock.refused("execution.change_priority", {"execution_id": ids[2], "priority": 1})
    assert error.code == "already_terminal"
    error = await penstock.refused("execution.change_priority", {"execution_id": ids[1], "priority": 128})
    assert (error.code, error.detail) == ("invalid_request", {"field": "priority"})


async def test_tags(penstock: RunningPenstock) -> None:
    async def found(tag: str, **more: Any) -> list[str]:
        page = await penstock.request("execution.list", {"tag": tag, **more})
        return [item["execution_id"] for item in page["items"]]

    one = await penstock.create(tags={"team": "red", "env": "prod"})
    two = await penstock.create(tags={"team": "blue"}, lane="other", namespace="n")
    assert await found("team") == [two, one]
    assert await found("team=red") == [one]
    assert await found("team", lane="other") == await found("team", namespace="n") == [two]
    assert await found("team", state="running") == await found("te") == await found("team=") == []
    record = await penstock.request("execution.set_tags", {"execution_id": one, "tags": {"team": "blue"}})
    assert record["tags"] == {"team": "blue"}
    assert await found("team=blue") == [two, one]
    assert await found("team=red") == await found("env") == []
    first = await penstock.request("execution.list", {"tag": "team", "limit": 1})
    second = await penstock.request("execution.list", {"tag": "team", "limit": 1, "cursor": first["cursor"]})
    assert [page["items"][0]["execution_id"] for page in (first, second)] == [two, one]
    await penstock.request("execution.set_tags", {"execution_id": one, "tags": {}})
    assert await found("team") == [two]
    assert await names(penstock, one) == ["created", "tags_changed", "tags_changed"]
    await penstock.request("execution.cancel", {"execution_id": one})
    error = await penstock.refused("execution.set_tags", {"execution_id": one, "tags": {}})
    assert error.code == "already_terminal"
    for tag in ("", "a b", "=x", "a\n"):
        assert (await penstock.refused("execution.list", {"tag": tag})).detail == {"field": "tag"}


async def test_tags_over_partitions(penstock: RunningPenstock) -> None:
    bodies = [{"kind": "k", "tags": {"n": str(n)}} for n in range(20)]
    made = [each["ok"]["execution_id"] for each in await penstock.request("execution.create", bodies)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await penstock.request("execution.list", {"tag": "n", "limit": 7, "cursor": cursor})
        seen += [item["execution_id"] for item in page["items"]]
        if (cursor := page["cursor"]) is None:
            break
    assert sorted(seen) == sorted(made) and len(seen) == 20


async def test_a_flows_members_by_its_index(penstock: RunningPenstock) -> None:
    members = [{"key": f"m{n}", "kind": "k"} for n in range(5)]
    body = {"controller_id": "c", "goal": "g", "owner": "o", "members": members}
    flow = await penstock.request("flow.create", body)
    await penstock.create(kind="k")
    seen: list[str] = []
    cursor = None
    while True:
        filters = {"flow_id": flow["flow_id"], "limit": 2, "cursor": cursor, "state": "scheduled"}
        page = await penstock.request("execution.list", filters)
        seen += [item["execution_id"] for item in page["items"]]
        if (cursor := page["cursor"]) is None:
            break
    assert seen == [flow["members"][f"m{n}"] for n in (4, 3, 2, 1, 0)]


async def test_replay(penstock: RunningPenstock) -> None:
    deadline = await now(penstock) + HOUR_MS
    spec = {
        "input": {"empty": [], "z": 1, "a": 2**63 + 1},
        "priority": 3,
        "max_attempts": 2,
        "tags": {"t": "1"},
        "capabilities": ["gpu", "big"],
        "namespace": "n1",
        "max_reclaims": 4,
        "deadline_at": deadline,
    }
    old = await penstock.create(**spec)
    error = await penstock.refused("execution.replay", {"execution_id": old})
    assert (error.code, error.detail) == ("execution_not_eligible", {"state": "ready"})
    await penstock.request("execution.cancel", {"execution_id": old})
    before = await penstock.get(old)
    reply = await penstock.request("execution.replay", {"execution_id": old})
    assert reply == {
        "execution_id": reply["execution_id"],
        "state": "ready",
        "duplicate": False,
        "replay_of": old,
    }
    assert reply["execution_id"].split("-")[0] == old.split("-")[0]
    record = await penstock.get(reply["execution_id"])
    for name in ("kind", "lane", "input", "priority", "max_attempts", "tags", "namespace", "max_reclaims"):
        assert record[name] == before[name], name
    assert sorted(record["capabilities"]) == ["big", "gpu"]
    assert (record["replay_of"], record["deadline_at"], record["attempt_index"]) == (old, None, 0)
    assert await penstock.get(old) == before
    [task] = await penstock.take(capabilities=["big", "gpu", "more"])
    assert (task["execution_id"], task["input"]) == (reply["execution_id"], spec["input"])

    for value in (None, 5, {"b": []}):
        reply = await penstock.request("execution.replay", {"execution_id": old, "input": value})
        assert (await penstock.get(reply["execution_id"]))["input"] == value
    assert (
        await penstock.refused("execution.replay", {"execution_id": NOWHERE})
    ).code == "execution_not_found"


async def test_a_draining_lane_takes_no_replay(penstock: RunningPenstock) -> None:
    old = await penstock.create(lane="closing")
    await penstock.request("execution.cancel", {"execution_id": old})
    await penstock.request("lane.drain", {"lane": "closing"})
    error = await penstock.refused("execution.replay", {"execution_id": old})
    assert (error.code, error.detail["lane_status"]) == ("execution_not_eligible", "draining")


async def test_a_replays_idempotency_key(penstock: RunningPenstock) -> None:
    old = await penstock.create()
    await penstock.request("execution.cancel", {"execution_id": old})
    body = {"execution_id": old, "idempotency_key": "again"}
    first, repeat = await asyncio.gather(*(penstock.request("execution.replay", body) for _ in range(2)))
    assert first["execution_id"] == repeat["execution_id"]
    assert (await penstock.request("execution.replay", body)) == first | {"duplicate": True}
    error = await penstock.refused("execution.replay", body | {"input": 1})
    assert error.code == "idempotency_conflict"


async def test_a_members_replay_stands_alone(penstock: RunningPenstock) -> None:
    body = {
        "controller_id": "c",
        "goal": "g",
        "owner": "o",
        "members": [{"key": "a", "kind": "k"}, {"key": "b", "kind": "k", "input": {"own": 1}}],
        "edges": [{"from": "a", "to": "b", "data": "from_a"}],
    }
    flow = await penstock.request("flow.create", body)
    await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
    await outcome(penstock, "complete", await penstock.begin(), result={"r": []})
    task = await penstock.begin()
    await outcome(penstock, "complete", task)
    reply = await penstock.request("execution.replay", {"execution_id": flow["members"]["b"]})
    record = await penstock.get(reply["execution_id"])
    assert (record["flow_id"], record["parent_id"]) == (None, None)
    assert record["input"] == task["input"] == {"own": 1, "from_a": {"r": []}}


async def test_client_verbs(penstock: RunningPenstock) -> None:
    async def echo(task: Task) -> Any:
        return task.input

    async with working(penstock, echo=echo) as client:
        run = await client.submit("echo", [1], run_at=2**47)
        assert (await client.change_priority(run.execution_id, 7)).priority == 7
        assert (await client.set_tags(run.execution_id, {"a": "b"})).tags == {"a": "b"}
        assert [record.execution_id async for record in client.list(tag="a=b")] == [run.execution_id]
        await client.run_now(run.execution_id)
        assert await run.result(timeout=WAIT_S) == [1]
        again = await client.replay(run.execution_id)
        assert await again.result(timeout=WAIT_S) == [1]
        keyed = [await client.replay(run.execution_id, input=None, idempotency_key="k") for _ in range(2)]
        assert [each.duplicate for each in keyed] == [False, True]
        assert await keyed[0].result(timeout=WAIT_S) is None
        assert (await client.get(keyed[0].execution_id)).replay_of == run.execution_id
