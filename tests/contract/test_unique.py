"""unique_key: at most one unfinished execution has a given key. Also: children whose parent ends."""

import asyncio
from typing import Any

import pytest

from running_penstock import RunningPenstock, fence

HOUR_MS = 3_600_000


async def create(penstock: RunningPenstock, on_conflict: str = "existing", **more: Any) -> dict[str, Any]:
    spec = {"kind": "test.job", "unique_key": "k", "on_conflict": on_conflict, **more}
    return await penstock.request("execution.create", spec)


class TestUnique:
    async def test_one_that_has_not_ended_is_the_answer(self, penstock: RunningPenstock) -> None:
        made = await asyncio.gather(*(create(penstock) for _ in range(20)))
        assert len({each["execution_id"] for each in made}) == 1
        assert [each["duplicate"] for each in made].count(False) == 1
        assert (await create(penstock, namespace="other"))["duplicate"] is False
        task = await penstock.begin()
        assert (await create(penstock))["state"] == "running"
        await penstock.request("lease.complete", fence(task))
        assert (await create(penstock))["duplicate"] is False

    async def test_reject(self, penstock: RunningPenstock) -> None:
        first = await create(penstock, "reject")
        error = await penstock.refused(
            "execution.create", {"kind": "test.job", "unique_key": "k", "on_conflict": "reject"}
        )
        assert (error.code, error.detail["execution_id"]) == ("idempotency_conflict", first["execution_id"])
        await penstock.request("execution.cancel", {"execution_id": first["execution_id"]})
        assert (await create(penstock, "reject"))["duplicate"] is False

    async def test_replace_takes_the_new_input_and_time(self, penstock: RunningPenstock) -> None:
        at = await penstock.clock.now() + HOUR_MS
        first = await create(penstock, "replace", input=1, run_at=at)
        for n in (2, 3):
            again = await create(penstock, "replace", input={"n": n}, run_at=at + n * HOUR_MS)
            assert (again["execution_id"], again["duplicate"]) == (first["execution_id"], True)
        penstock.move_clock(3 * HOUR_MS)
        record = await penstock.get(first["execution_id"])
        assert (record["state"], record["input"]) == ("scheduled", {"n": 3})
        penstock.move_clock(2 * HOUR_MS)
        task = await penstock.begin()
        assert task["input"] == {"n": 3}

    async def test_replace_of_one_that_has_begun_follows_it(self, penstock: RunningPenstock) -> None:
        first = await create(penstock, "replace", input=1)
        task = await penstock.begin()
        second = await create(penstock, "replace", input=2)
        assert second["execution_id"] != first["execution_id"] and second["state"] == "scheduled"
        third = await create(penstock, "replace", input=3)
        assert (third["execution_id"], third["duplicate"]) == (second["execution_id"], True)
        told = await penstock.request("execution.explain", {"execution_id": second["execution_id"]})
        assert told["waiting_for"] == {"kind": "dependencies", "unique_key": "k"}
        await penstock.request("lease.complete", fence(task))
        task = await penstock.begin()
        assert (task["execution_id"], task["input"]) == (second["execution_id"], 3)
        await penstock.request("lease.complete", fence(task))
        assert (await create(penstock))["duplicate"] is False

    async def test_a_follower_that_is_canceled_gives_the_key_back(self, penstock: RunningPenstock) -> None:
        first = await create(penstock, "replace")
        task = await penstock.begin()
        second = await create(penstock, "replace")
        await penstock.request("execution.cancel", {"execution_id": second["execution_id"]})
        assert (await create(penstock))["execution_id"] == first["execution_id"]
        await penstock.request("lease.complete", fence(task))
        assert (await create(penstock))["duplicate"] is False

    async def test_with_an_idempotency_key(self, penstock: RunningPenstock) -> None:
        first = await create(penstock, idempotency_key="i")
        await penstock.request("execution.cancel", {"execution_id": first["execution_id"]})
        again = await create(penstock, idempotency_key="i")
        assert (again["execution_id"], again["duplicate"]) == (first["execution_id"], True)
        assert (await create(penstock))["execution_id"] != first["execution_id"]

    async def test_what_does_not_fit_together(self, penstock: RunningPenstock) -> None:
        parent = await penstock.create()
        for more, field in (
            ({"unique_key": "k", "parent_id": parent}, "unique_key"),
            ({"on_conflict": "reject"}, "on_conflict"),
            ({"parent_close": "let_run"}, "parent_close"),
        ):
            error = await penstock.refused("execution.create", {"kind": "test.job", **more})
            assert (error.code, error.detail["field"]) == ("invalid_request", field)


class TestParentClose:
    @pytest.mark.parametrize("ending", ["failed", "canceled", "completed"])
    async def test_children_end_with_their_parent(self, penstock: RunningPenstock, ending: str) -> None:
        parent = await penstock.create()
        task = await penstock.begin()
        ready = await penstock.create(parent_id=parent, lane="l")
        runs = await penstock.create(parent_id=parent, lane="r")
        held = await penstock.begin(lanes=["r"])
        free = await penstock.create(parent_id=parent, lane="l", parent_close="let_run")
        grandchild = await penstock.create(parent_id=ready, lane="l")
        match ending:
            case "failed":
                await penstock.request("lease.fail", fence(task) | {"reason": "r"})
            case "canceled":
                await penstock.request("lease.cancel", fence(task))
            case _:
                await penstock.request("lease.complete", fence(task))
                assert (await penstock.get(ready))["state"] == "ready"
                return
        await penstock.reaches(ready, "canceled")
        await penstock.reaches(grandchild, "canceled")
        assert (await penstock.get(free))["state"] == "ready"
        await penstock.until(lambda: penstock.get(runs), lambda record: record["cancel_requested"])
        assert (await penstock.request("lease.renew", fence(held)))["cancel_requested"] is True
        penstock.move_clock(11_000)
        await penstock.reaches(runs, "canceled")
        history = await penstock.request("execution.history", {"execution_id": ready})
        assert history["items"][-1]["reason"] == f"parent_{ending}"

    async def test_many_children_are_stopped_slice_by_slice(self, penstock: RunningPenstock) -> None:
        parent = await penstock.create()
        task = await penstock.begin()
        made = await penstock.request(
            "execution.create", [{"kind": "test.job", "lane": "l", "parent_id": parent} for _ in range(120)]
        )
        await penstock.request("lease.fail", fence(task) | {"reason": "r"})
        for each in made:
            await penstock.reaches(each["ok"]["execution_id"], "canceled")
