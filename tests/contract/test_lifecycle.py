"""Execution verbs in batches and through the SDK."""

from datetime import timedelta

import pytest

from lifecycles import HOUR_MS, working
from penstock import ExecutionCanceled, Task
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence


async def test_batches(penstock: RunningPenstock) -> None:
    """Each of these verbs takes a batch, and a bad item does not affect the other items."""
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


async def test_handlers_that_delay_and_cancel(penstock: RunningPenstock) -> None:
    async def later(task: Task) -> str | None:
        if task.resumed:
            assert await task.resumed_by() == []
            return "later"
        await task.delay(timedelta(days=3))
        return None

    async def never(task: Task) -> None:
        await task.cancel("no need")

    penstock.move_clock(-500 * 24 * HOUR_MS)  # the worker's own clock must not matter
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
