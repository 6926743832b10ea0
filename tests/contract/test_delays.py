"""A worker cancels its task, or delays the task until a given time."""

import pytest

from lifecycles import HOUR_MS, last, names, now, outcome, running
from running_penstock import RunningPenstock, fence


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
        *("created", "started", "suspended", "resumed", "started", "completed")
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
