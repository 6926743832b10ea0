"""Executions that create child executions and wait for them."""

from typing import Any

from lifecycles import HOUR_MS, names, now, outcome, running, working
from penstock import Task
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence


async def test_await_children(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    parent_id = task["execution_id"]
    children = [await penstock.create(parent_id=parent_id, lane=f"c{n}") for n in range(3)]
    assert await outcome(penstock, "await_children", task) == {"state": "suspended"}
    record = await penstock.get(parent_id)
    assert (record["state"], record["reason"]) == ("suspended", "children")
    # A child counts as ended whether it completes, fails or is canceled.
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
    """A passed deadline, a lost lease or an attempt timeout ends a child too."""
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
    assert len(page["items"]) == 3  # the repeated completion created no more children


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
    """The key is stored in the partition that its hash selects, the child in its parent's partition."""
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
    await penstock.create(idempotency_key="free")  # a refused create does not keep the key


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
