"""execution.explain: why an execution does not run."""

from typing import Any

from lifecycles import HOUR_MS, now, outcome, running
from running_penstock import NOWHERE, RunningPenstock, fence


async def explain(penstock: RunningPenstock, execution_id: str) -> tuple[str, dict[str, Any]]:
    reply = await penstock.request("execution.explain", {"execution_id": execution_id})
    assert reply["execution_id"] == execution_id and reply["explanation"] and reply["advice"]
    return reply["explanation"], reply["waiting_for"]


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
    """A limit's usage is often kept in another partition than the execution."""
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
