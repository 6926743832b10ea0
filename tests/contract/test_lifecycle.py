"""What becomes of an execution by its worker's word, by an operator's or by the clock; over NATS only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from penstock import Client, ExecutionCanceled, Task, Worker
from running_penstock import WAIT_S, RunningPenstock, fence

NOWHERE = "0-00000000-0000-7000-8000-000000000000"
HOUR_MS = 3_600_000


async def running(penstock: RunningPenstock, **spec: Any) -> dict[str, Any]:
    await penstock.create(**spec)
    return await penstock.begin()


async def outcome(penstock: RunningPenstock, verb: str, task: dict[str, Any], **more: Any) -> dict[str, Any]:
    return await penstock.request(f"lease.{verb}", fence(task) | more)


async def names(penstock: RunningPenstock, execution_id: str) -> list[str]:
    page = await penstock.request("execution.history", {"execution_id": execution_id})
    assert [event["seq"] for event in page["items"]] == list(range(1, len(page["items"]) + 1))
    return [event["event"] for event in page["items"]]


async def last(penstock: RunningPenstock, execution_id: str) -> dict[str, Any]:
    page = await penstock.request("execution.history", {"execution_id": execution_id})
    return page["items"][-1]


async def now(penstock: RunningPenstock) -> int:
    """The house's clock, as an execution tells it."""
    return (await penstock.get(await penstock.create(lane="clock")))["created_at"]


# -- lease.cancel ---------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [True, False])
async def test_a_worker_cancels(penstock: RunningPenstock, start: bool) -> None:
    execution_id = await penstock.create()
    [task] = await penstock.take(start=start)
    assert await outcome(penstock, "cancel", task, reason="no need") == {"state": "canceled"}
    assert await outcome(penstock, "cancel", task, reason="no need") == {"state": "canceled"}  # a repeat
    record = await penstock.get(execution_id)
    assert (record["state"], record["outcome"], record["lease"]) == ("canceled", "canceled", None)
    assert (await last(penstock, execution_id))["reason"] == "no need"
    refused = await penstock.refused("lease.complete", fence(task))
    assert refused.code == "execution_not_active"
    assert refused.detail["terminal_outcome"] == "canceled"


# -- lease.delay ----------------------------------------------------------------------------------


async def test_a_delay_ends_by_itself(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    execution_id = task["execution_id"]
    until = await now(penstock) + HOUR_MS
    assert await outcome(penstock, "delay", task, until=until) == {"state": "suspended"}
    assert await outcome(penstock, "delay", task, until=until) == {"state": "suspended"}
    record = await penstock.get(execution_id)
    assert (record["state"], record["reason"], record["lease"]) == ("suspended", "delay", None)
    assert (await penstock.refused("lease.renew", fence(task))).code == "stale_lease"
    penstock.move_clock(HOUR_MS + 1)
    again = await penstock.begin()
    assert (again["execution_id"], again["resumed"], again["attempt_index"]) == (execution_id, True, 1)
    assert again["attempt_id"] == task["attempt_id"]
    page = await penstock.request("signal.resumed_by", fence(again))
    assert page["items"] == []
    await outcome(penstock, "complete", again)
    assert await names(penstock, execution_id) == [
        *("created", "leased", "started", "suspended", "resumed", "leased", "started", "completed")
    ]


async def test_a_delay_until_the_past_resumes_at_once(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    assert await outcome(penstock, "delay", task, until=1) == {"state": "ready"}
    [grant] = (await penstock.request("work.grant", {"worker_id": "w2"}))["items"]
    assert grant["resumed"]
    claim = {name: grant[name] for name in ("grant_id", "execution_id")} | {"worker_id": "w2"}
    assert (await penstock.refused("lease.claim", claim)).code == "use_claim_resumed_execution"
    assert (await penstock.request("lease.claim_resumed", claim))["resumed"]


async def test_suspended_needs_a_start(penstock: RunningPenstock) -> None:
    await penstock.create()
    [task] = await penstock.take()
    for verb, more in (("delay", {"until": 1}), ("await_children", {})):
        error = await penstock.refused(f"lease.{verb}", fence(task) | more)
        assert (error.code, error.detail) == ("illegal_transition", {"from": "leased", "to": "suspended"})
    assert (await penstock.get(task["execution_id"]))["state"] == "leased"


async def test_a_delayed_one_that_was_asked_to_stop_is_canceled(penstock: RunningPenstock) -> None:
    for verb, more in (("delay", {"until": 2**47}), ("await_children", {})):
        task = await running(penstock)
        body = {"execution_id": task["execution_id"], "reason": "r", "grace_ms": HOUR_MS}
        assert (await penstock.request("execution.cancel", body))["state"] == "running"
        assert await outcome(penstock, verb, task, **more) == {"state": "canceled"}


# -- children -------------------------------------------------------------------------------------


async def test_await_children(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    parent_id = task["execution_id"]
    children = [await penstock.create(parent_id=parent_id, lane=f"c{n}") for n in range(3)]
    assert await outcome(penstock, "await_children", task) == {"state": "suspended"}
    record = await penstock.get(parent_id)
    assert (record["state"], record["reason"]) == ("suspended", "children")
    # However a child ends, it counts.
    child = await penstock.begin(lanes=["c0"])
    assert (await penstock.get(child["execution_id"]))["parent_id"] == parent_id
    await outcome(penstock, "complete", child)
    child = await penstock.begin(lanes=["c1"])
    await outcome(penstock, "fail", child, reason="r", retryable=False)
    assert (await penstock.get(parent_id))["state"] == "suspended"
    await penstock.request("execution.cancel", {"execution_id": children[2]})
    again = await penstock.begin()
    assert (again["execution_id"], again["resumed"]) == (parent_id, True)
    assert (await penstock.request("signal.resumed_by", fence(again)))["items"] == []
    assert [event for event in await names(penstock, parent_id) if event == "resumed"] == ["resumed"]


async def test_children_that_end_by_the_clock_wake_their_parent(penstock: RunningPenstock) -> None:
    """Deadlines, lost leases, timed out attempts and skips are ends too."""
    task = await running(penstock)
    parent_id = task["execution_id"]
    deadline = await now(penstock) + 60_000
    ends = [
        await penstock.create(parent_id=parent_id, lane="late", deadline_at=deadline),
        await penstock.create(parent_id=parent_id, lane="lost", max_reclaims=0),
        await penstock.create(parent_id=parent_id, lane="slow", attempt_timeout_ms=50_000),
    ]
    await penstock.begin(lanes=["lost"], lease_ttl_ms=30_000)
    await penstock.begin(lanes=["slow"], lease_ttl_ms=HOUR_MS)
    await outcome(penstock, "await_children", task)
    penstock.move_clock(60_001)
    states = [(await penstock.reaches(each, "failed", "canceled"))["state"] for each in ends]
    assert states == ["canceled", "failed", "failed"]
    assert (await penstock.reaches(parent_id, "ready"))["reason"] is None


async def test_nothing_to_wait_for(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    assert await outcome(penstock, "await_children", task) == {"state": "ready"}
    again = await penstock.begin()
    assert again["resumed"] and again["attempt_index"] == 1


async def test_children_created_with_the_completion(penstock: RunningPenstock) -> None:
    task = await running(penstock, namespace="n1")
    specs = [
        {"kind": "child.a", "input": {"empty": [], "big": 2**63 + 1}, "lane": "la", "tags": {"x": "1"}},
        {"kind": "child.b", "lane": "lb", "concurrency_key": "one"},
    ]
    reply = await outcome(penstock, "complete", task, result=1, children=specs)
    assert reply["state"] == "completed" and len(reply["children"]) == 2
    assert await outcome(penstock, "complete", task, result=1, children=specs) == reply
    records = [await penstock.get(child) for child in reply["children"]]
    assert [(r["kind"], r["parent_id"], r["namespace"], r["state"]) for r in records] == [
        ("child.a", task["execution_id"], "n1", "ready"),
        ("child.b", task["execution_id"], "n1", "ready"),
    ]
    assert records[0]["input"] == specs[0]["input"]
    [child] = await penstock.take(lanes=["la"])
    assert child["execution_id"] == reply["children"][0]
    page = await penstock.request("execution.list", {"namespace": "n1"})
    assert len(page["items"]) == 3  # no more than that: a repeat makes none


async def test_a_bad_child_hurts_only_its_own_completion(penstock: RunningPenstock) -> None:
    one, other = await running(penstock), await running(penstock)
    bad = fence(one) | {"children": [{"kind": "c"}, {"kind": "c", "deadline_at": 1}]}
    replies = await penstock.request("lease.complete", [bad, fence(other) | {"result": 2}])
    assert replies[0]["error"]["detail"] == {"field": "children[1].deadline_at"}
    assert replies[1]["ok"]["state"] == "completed"
    assert (await penstock.get(one["execution_id"]))["state"] == "running"
    error = await penstock.refused(
        "lease.complete", fence(one) | {"children": [{"kind": "c", "quota_id": NOWHERE}]}
    )
    assert error.code == "quota_not_found"
    error = await penstock.refused("lease.complete", fence(one) | {"children": [{"kind": "a b"}]})
    assert (error.code, error.detail["field"]) == ("invalid_request", "children[0].kind")
    assert (await outcome(penstock, "complete", one))["state"] == "completed"


async def test_a_canceled_completion_makes_no_children(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    body = {"execution_id": task["execution_id"], "grace_ms": HOUR_MS}
    await penstock.request("execution.cancel", body)
    reply = await outcome(penstock, "complete", task, children=[{"kind": "c"}])
    assert reply == {"state": "canceled"}


async def test_an_unknown_parent(penstock: RunningPenstock) -> None:
    error = await penstock.refused("execution.create", {"kind": "k", "parent_id": NOWHERE})
    assert (error.code, error.detail) == ("execution_not_found", {"execution_id": NOWHERE})


async def test_a_childs_idempotency_key(penstock: RunningPenstock) -> None:
    """The key is remembered where all keys are, the child lives with its parent."""
    for n in range(6):  # parents in several partitions
        parent_id = await penstock.create(lane="parents")
        body = {"kind": "k", "parent_id": parent_id, "idempotency_key": f"key{n}"}
        both = await penstock.request("execution.create", [body, {"kind": "other"}, body])
        first, _, repeat = (each["ok"] for each in both)
        assert first["execution_id"] == repeat["execution_id"]
        assert first["execution_id"].split("-")[0] == parent_id.split("-")[0]
        again = await penstock.request("execution.create", body)
        assert again == first | {"duplicate": True}
        error = await penstock.refused("execution.create", {"kind": "k", "idempotency_key": f"key{n}"})
        assert error.code == "idempotency_conflict"
    body = {"kind": "k", "parent_id": NOWHERE, "idempotency_key": "free"}
    assert (await penstock.refused("execution.create", body)).code == "execution_not_found"
    await penstock.create(idempotency_key="free")  # what was refused keeps no key


# -- lease.revoke ---------------------------------------------------------------------------------


async def test_revoke(penstock: RunningPenstock) -> None:
    task = await running(penstock, max_reclaims=0)
    execution_id = task["execution_id"]
    told = await penstock.nats.subscribe(f"{penstock.root}.worker.w1", max_msgs=1)
    body = {"execution_id": execution_id, "reason": "stuck"}
    assert await penstock.request("lease.revoke", body) == {"state": "ready"}
    assert (await told.next_msg(5)).data
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


# -- execution.run_now ----------------------------------------------------------------------------


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


# -- execution.change_priority, .set_tags, .list --------------------------------------------------


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


# -- execution.replay -----------------------------------------------------------------------------


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


async def test_explain_a_paused_lane(penstock: RunningPenstock) -> None:
    execution_id = await penstock.create(lane="closed")
    await penstock.request("lane.pause", {"lane": "closed"})
    text, facts = await explain(penstock, execution_id)
    assert text == "Lane 'closed' is paused: it hands out no work."
    assert facts == {"kind": "lane", "lane": "closed", "status": "paused"}


async def test_explain_a_budget(penstock: RunningPenstock) -> None:
    budget = await penstock.request("budget.create", {"dimensions": {"usd": {"hard": 1}}})
    spec = {"budget_ids": [budget["budget_id"]]}
    held, waiting = await penstock.create(**spec), await penstock.create(lane="later", **spec)
    usage = fence(await penstock.begin()) | {"budget_id": budget["budget_id"], "dimensions": {"usd": 5}}
    await penstock.request("lease.usage", usage)
    text, facts = await explain(penstock, held)
    assert budget["budget_id"] in text and facts == {"kind": "budget", "budget_id": budget["budget_id"]}
    text, facts = await explain(penstock, waiting)
    assert "5 of 1 usd" in text and (facts["kind"], facts["exhausted"]) == ("budget", True)


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


# -- attempts and deadlines -----------------------------------------------------------------------


async def test_an_attempt_that_takes_too_long(penstock: RunningPenstock) -> None:
    task = await running(penstock, max_attempts=2, attempt_timeout_ms=5000, backoff={"delay_ms": 0})
    told = await penstock.nats.subscribe(f"{penstock.root}.worker.w1", max_msgs=1)
    penstock.move_clock(5001)
    assert (await told.next_msg(5)).data
    assert (await penstock.refused("lease.complete", fence(task))).code == "lease_revoked"
    again = await penstock.begin()
    assert again["attempt_index"] == 2
    assert (await penstock.refused("lease.complete", fence(task))).code == "stale_lease"
    penstock.move_clock(5001)
    record = await penstock.reaches(task["execution_id"], "failed")
    assert record["failure"]["category"] == "timeout"


async def test_a_suspension_does_not_use_an_attempts_time(penstock: RunningPenstock) -> None:
    task = await running(penstock, attempt_timeout_ms=5000)
    await outcome(penstock, "delay", task, until=await now(penstock) + HOUR_MS)
    penstock.move_clock(HOUR_MS + 1)
    again = await penstock.begin()
    assert (await outcome(penstock, "complete", again))["state"] == "completed"


async def test_deadlines(penstock: RunningPenstock) -> None:
    deadline = await now(penstock) + 60_000
    ready = await penstock.create(deadline_at=deadline, lane="r")
    scheduled = await penstock.create(deadline_at=deadline, run_at=deadline - 1, lane="s")
    run = await penstock.create(deadline_at=deadline)
    await penstock.begin(lease_ttl_ms=HOUR_MS)
    delayed = await running(penstock, deadline_at=deadline)
    await outcome(penstock, "delay", delayed, until=deadline + HOUR_MS)
    penstock.move_clock(60_001)
    assert (await penstock.reaches(ready, "canceled"))["outcome"] == "canceled"
    await penstock.reaches(scheduled, "canceled")
    record = await penstock.reaches(run, "failed")
    assert record["failure"]["category"] == "deadline_exceeded"
    await penstock.reaches(delayed["execution_id"], "failed")
    error = await penstock.refused("execution.create", {"kind": "k", "deadline_at": deadline})
    assert (error.code, error.detail) == ("invalid_request", {"field": "deadline_at"})


@pytest.mark.parametrize(
    ("spec", "category", "retried"),
    [
        ({"retry_on": ["net"]}, "net", True),
        ({"retry_on": ["net"]}, "disk", False),
        ({"fail_on": ["disk"]}, "net", True),
        ({"fail_on": ["disk"]}, "disk", False),
        ({"retry_on": ["net"], "fail_on": ["net"]}, "net", False),
    ],
)
async def test_categories(
    penstock: RunningPenstock, spec: dict[str, Any], category: str, retried: bool
) -> None:
    task = await running(penstock, max_attempts=2, **spec)
    reply = await outcome(penstock, "fail", task, reason="r", category=category)
    assert reply["outcome"] == ("retry_scheduled" if retried else "terminal_failed")


@pytest.mark.parametrize(
    ("backoff", "attempt", "low", "high"),
    [
        ({"kind": "fixed", "delay_ms": 7000}, 2, 7000, 7000),
        ({"kind": "exponential", "delay_ms": 1000, "factor": 3}, 3, 9000, 9000),
        ({"kind": "exponential", "delay_ms": 1000, "factor": 10, "max_ms": 5000}, 3, 5000, 5000),
        ({"kind": "fixed", "delay_ms": 100_000, "jitter": 0.5}, 1, 50_000, 100_000),
    ],
)
async def test_backoff(
    penstock: RunningPenstock, backoff: dict[str, Any], attempt: int, low: int, high: int
) -> None:
    await penstock.create(max_attempts=10, backoff=backoff)
    for index in range(1, attempt + 1):
        task = await penstock.begin()
        assert task["attempt_index"] == index
        reply = await outcome(penstock, "fail", task, reason="r")
        record = await penstock.get(task["execution_id"])
        wait_ms = reply["ready_at"] - record["updated_at"]
        penstock.move_clock(wait_ms + 1)
    assert low <= wait_ms <= high


async def test_jitter_is_random(penstock: RunningPenstock) -> None:
    waits: set[int] = set()
    for _ in range(8):
        backoff = {"kind": "fixed", "delay_ms": 1_000_000, "jitter": 1}
        task = await running(penstock, max_attempts=2, backoff=backoff)
        reply = await outcome(penstock, "fail", task, reason="r")
        waits.add(reply["ready_at"] - (await penstock.get(task["execution_id"]))["updated_at"])
    assert len(waits) > 1


# -- execution.explain ----------------------------------------------------------------------------


async def explain(penstock: RunningPenstock, execution_id: str) -> tuple[str, dict[str, Any]]:
    reply = await penstock.request("execution.explain", {"execution_id": execution_id})
    assert reply["execution_id"] == execution_id and reply["explanation"] and reply["advice"]
    return reply["explanation"], reply["waiting_for"]


async def test_explain_times(penstock: RunningPenstock) -> None:
    at = await now(penstock) + HOUR_MS
    execution_id = await penstock.create(run_at=at, max_attempts=2)
    text, facts = await explain(penstock, execution_id)
    assert "scheduled for" in text and facts == {"kind": "time", "at": at}
    await penstock.request("execution.run_now", {"execution_id": execution_id})
    task = await penstock.begin()
    text, facts = await explain(penstock, execution_id)
    assert "'w1'" in text and (facts["kind"], facts["worker_id"]) == ("outcome", "w1")
    await outcome(penstock, "delay", task, until=at)
    assert (await explain(penstock, execution_id))[1] == {"kind": "time", "at": at}
    await penstock.request("execution.run_now", {"execution_id": execution_id})
    reply = await outcome(penstock, "fail", await penstock.begin(), reason="broken", category="c")
    text, facts = await explain(penstock, execution_id)
    assert "broken" in text and facts == {"kind": "time", "at": reply["ready_at"], "next_attempt": 2}
    await penstock.request("execution.cancel", {"execution_id": execution_id})
    text, facts = await explain(penstock, execution_id)
    assert "canceled" in text and facts["kind"] == "nothing"
    error = await penstock.refused("execution.explain", {"execution_id": NOWHERE})
    assert error.code == "execution_not_found"


async def test_explain_the_queue(penstock: RunningPenstock) -> None:
    await penstock.create(capabilities=["gpu"], priority=1)
    behind = await penstock.create(capabilities=["gpu"])
    text, facts = await explain(penstock, behind)
    assert "No registered worker" in text
    assert (facts["kind"], facts["lane"], facts["capabilities"], facts["ahead"], facts["workers"]) == (
        *("worker", "default", ["gpu"], 1, 0),
    )
    await penstock.request("worker.register", {"worker_id": "w1", "lanes": ["default"]})
    text, facts = await explain(penstock, behind)
    assert "w1 lacks 'gpu'" in text
    assert (facts["kind"], facts["lacking"]) == ("capability", {"w1": ["gpu"]})
    able = {"worker_id": "w9", "lanes": ["default"], "capabilities": ["gpu"]}
    await penstock.request("worker.register", able)
    text, facts = await explain(penstock, behind)
    assert "1 of 2 workers" in text and "behind 1" in text and facts["kind"] == "worker"
    [grant] = (await penstock.request("work.grant", able))["items"]
    assert (await explain(penstock, grant["execution_id"]))[1]["kind"] == "claim"


async def test_explain_limits(penstock: RunningPenstock) -> None:
    """The limit's books are in another partition more often than not."""
    quota = await penstock.request("quota.create", {"max_per_window": 1, "window_ms": HOUR_MS})
    for spec, kind in (
        ({"concurrency_key": "k"}, "concurrency_key"),
        ({"quota_id": quota["quota_id"]}, "quota"),
    ):
        ids = [await penstock.create(lane=kind, **spec) for _ in range(2)]
        task = await penstock.begin(lanes=[kind])
        [other] = set(ids) - {task["execution_id"]}
        assert await penstock.take(lanes=[kind], wait_ms=100) == []
        text, facts = await explain(penstock, other)
        assert facts["kind"] == kind and "used up" in text
        if kind == "quota":
            assert facts["id"] == quota["quota_id"] and 0 < facts["retry_after_ms"] <= HOUR_MS + 1


async def test_explain_dependencies(penstock: RunningPenstock) -> None:
    body = {
        "controller_id": "c",
        "goal": "g",
        "owner": "o",
        "members": [{"key": key, "kind": "k"} for key in ("a", "b", "c")],
        "edges": [{"from": "a", "to": "c"}, {"from": "b", "to": "c"}],
    }
    flow = await penstock.request("flow.create", body)
    members = flow["members"]
    assert "not been started" in (await explain(penstock, members["a"]))[0]
    await penstock.request("flow.start", {"flow_id": flow["flow_id"]})
    text, facts = await explain(penstock, members["c"])
    assert "'a' (ready)" in text and "'b' (ready)" in text
    task = await penstock.begin()
    await outcome(penstock, "complete", task)
    text, facts = await explain(penstock, members["c"])
    assert (facts["unmet"], facts["parents"][0]["state"]) == (1, "ready")
    assert facts["parents"][0]["execution_id"] != task["execution_id"]


async def test_explain_signals_and_children(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    made = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "approval"})
    condition = {"all_of": [{"name": "legal"}, {"count": 2, "of": [{"name": "review.*"}]}]}
    waiting = {"waitpoint_id": made["waitpoint_id"], "condition": condition, "timeout_ms": HOUR_MS}
    await outcome(penstock, "suspend", task, **waiting)
    await penstock.request("signal.deliver", {"token": made["token"], "name": "review.jo"})
    text, facts = await explain(penstock, task["execution_id"])
    assert "'approval'" in text and "'legal'" in text
    assert facts["missing"] == ["a signal 'legal'", "1 more of 'review.*'"]
    assert (facts["received"], facts["timeout_behavior"]) == (1, "fail")
    assert made["token"] not in text

    await penstock.create(lane="p")
    task = await penstock.begin(lanes=["p"])
    for _ in range(2):
        await penstock.create(parent_id=task["execution_id"], lane="q")
    await outcome(penstock, "await_children", task)
    text, facts = await explain(penstock, task["execution_id"])
    assert "2 of its children" in text and facts == {"kind": "children", "open": 2}


# -- batches --------------------------------------------------------------------------------------


async def test_batches(penstock: RunningPenstock) -> None:
    """Every verb here takes them, and one bad item never hurts the rest."""
    good, bad = await penstock.create(), NOWHERE
    for verb, more in (
        ("execution.run_now", {}),
        ("execution.change_priority", {"priority": 1}),
        ("execution.set_tags", {"tags": {"a": "b"}}),
        ("execution.explain", {}),
    ):
        body = [{"execution_id": each, **more} for each in (bad, good, "nonsense")]
        one, two, three = await penstock.request(verb, body)
        assert one["error"]["code"] == "execution_not_found", verb
        assert two["ok"]["execution_id"] == good, verb
        assert three["error"]["code"] == "invalid_request", verb
    [task] = await penstock.take(start=True)
    unknown = fence(task) | {"execution_id": NOWHERE}
    for verb, more in (("delay", {"until": 1}), ("await_children", {}), ("cancel", {})):
        one, two = await penstock.request(f"lease.{verb}", [unknown | more, fence(task) | more])
        assert one["error"]["code"] == "execution_not_found", verb
        assert "state" in two["ok"], verb
        if verb != "cancel":
            task = await penstock.begin()
    one, two = await penstock.request("execution.replay", [{"execution_id": bad}, {"execution_id": good}])
    assert one["error"]["code"] == "execution_not_found" and two["ok"]["replay_of"] == good
    one, two = await penstock.request("lease.revoke", [{"execution_id": bad}, {"execution_id": good}])
    assert (one["error"]["code"], two["error"]["code"]) == ("execution_not_found", "no_active_lease")


# -- the SDK --------------------------------------------------------------------------------------


@asynccontextmanager
async def working(penstock: RunningPenstock, **handlers: Any) -> AsyncIterator[Client]:
    """A client, beside a worker with these handlers."""
    worker = Worker(penstock.settings.nats_url, root=penstock.root, grace=5.0, park=0.5)
    for kind, handler in handlers.items():
        worker.handler(kind)(handler)
    serving = asyncio.create_task(worker.run(handle_signals=False))
    async with await Client.connect(penstock.settings.nats_url, root=penstock.root) as client:
        yield client
        worker.stop()
        await asyncio.wait_for(serving, WAIT_S)


async def test_handlers_with_children(penstock: RunningPenstock) -> None:
    async def parent(task: Task) -> None:
        if task.resumed:
            await task.complete("done", children=[("child", {"n": 9}), {"kind": "child", "input": {"n": 10}}])
            return
        for n in range(3):
            await task.create_child("child", {"n": n}, idempotency_key=f"{task.execution_id}-{n}")
        assert await task.await_children() == "suspended"

    async def child(n: int) -> int:
        return n

    async with working(penstock, parent=parent, child=child) as client:
        run = await client.submit("parent")
        assert await run.result(timeout=WAIT_S) == "done"

        async def ended() -> list[Any]:
            return [record async for record in client.list(kind="child", state="completed")]

        children = await penstock.until(ended, lambda found: len(found) == 5, "five ended children")
        assert {each.parent_id for each in children} == {run.execution_id}


async def test_handlers_that_delay_and_cancel(penstock: RunningPenstock) -> None:
    async def later(task: Task) -> str | None:
        if task.resumed:
            assert await task.resumed_by() == []
            return "later"
        await task.delay(timedelta(days=3))
        return None

    async def never(task: Task) -> None:
        await task.cancel("no need")

    penstock.move_clock(-500 * 24 * HOUR_MS)  # the worker's own clock is of no account
    async with working(penstock, later=later, never=never) as client:
        run = await client.submit("later")
        record = await penstock.reaches(run.execution_id, "suspended")
        explanation = await client.explain(run.execution_id)
        left = explanation.waiting_for["at"] - record["updated_at"]
        assert abs(left - 72 * HOUR_MS) < 10_000
        penstock.move_clock(72 * HOUR_MS + 10_000)
        assert await run.result(timeout=WAIT_S) == "later"
        with pytest.raises(ExecutionCanceled):
            await (await client.submit("never")).result(timeout=WAIT_S)


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
