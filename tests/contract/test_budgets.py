"""Budgets, tested over NATS only; a budget is often in another partition than its executions."""

import asyncio
import secrets
from typing import Any

import msgspec
import pytest

from penstock import Client, Task, Worker
from penstock.machine.ops import lease_keeper as ops
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence


async def make_budget(
    penstock: RunningPenstock, hard: int = 100, soft: int | None = None, **options: Any
) -> str:
    limits = {"hard": hard} if soft is None else {"hard": hard, "soft": soft}
    budget = await penstock.request("budget.create", {"dimensions": {"tokens": limits}, **options})
    return budget["budget_id"]


async def report(
    penstock: RunningPenstock, task: Any, budget_id: str, amount: int, **options: Any
) -> dict[str, Any]:
    body = {**fence(task), "budget_id": budget_id, "dimensions": {"tokens": amount}, **options}
    return await penstock.request("lease.usage", body)


async def used(penstock: RunningPenstock, budget_id: str) -> int:
    budget = await penstock.request("budget.get", {"budget_id": budget_id})
    return budget["dimensions"]["tokens"]["used"]


async def names(penstock: RunningPenstock, execution_id: str) -> list[str]:
    page = await penstock.request("execution.history", {"execution_id": execution_id})
    return [event["event"] for event in page["items"]]


class TestBudgets:
    async def test_a_budget_is_created_and_read(self, penstock: RunningPenstock) -> None:
        budget = await penstock.request(
            "budget.create", {"dimensions": {"usd": {"hard": 10, "soft": 5}, "tokens": {"hard": 7}}}
        )
        assert budget["dimensions"] == {
            "usd": {"used": 0, "soft": 5, "hard": 10},
            "tokens": {"used": 0, "soft": None, "hard": 7},
        }
        found = await penstock.request("budget.get", {"budget_id": budget["budget_id"]})
        assert {**found, "duplicate": False} == budget

    async def test_replenish_raises_both_limits(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock, hard=100, soft=50)
        body = {"budget_id": budget_id, "dimensions": {"tokens": 10}, "idempotency_key": "once"}
        budget = await penstock.request("budget.replenish", body)
        assert (budget["dimensions"]["tokens"]["soft"], budget["dimensions"]["tokens"]["hard"]) == (60, 110)
        again = await penstock.request("budget.replenish", body)
        assert again["duplicate"] is True and again["dimensions"]["tokens"]["hard"] == 110
        error = await penstock.refused("budget.replenish", {**body, "dimensions": {"tokens": 11}})
        assert error.code == "idempotency_conflict"

    async def test_creating_is_idempotent(self, penstock: RunningPenstock) -> None:
        body = {"dimensions": {"tokens": {"hard": 1}}, "idempotency_key": "b"}
        first = await penstock.request("budget.create", body)
        again = await penstock.request("budget.create", body)
        assert first["duplicate"] is False
        assert again == {**first, "duplicate": True}
        error = await penstock.refused("budget.create", {**body, "on_hard": "deny"})
        assert error.code == "idempotency_conflict"

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "dimensions"),
            ({"dimensions": {}}, "dimensions"),
            ({"dimensions": {"t": {}}}, "hard"),
            ({"dimensions": {"t": {"hard": -1}}}, "dimensions"),
            ({"dimensions": {"t": {"hard": 1, "soft": 2}}}, "dimensions.t.soft"),
            ({"dimensions": {"t": {"hard": 1}}, "reset_every_ms": 0}, "reset_every_ms"),
            ({"dimensions": {"t": {"hard": 1}}, "on_hard": "explode"}, "on_hard"),
            ({"dimensions": {"a b": {"hard": 1}}}, "dimensions"),
        ],
    )
    async def test_bad_budgets_are_refused(self, penstock: RunningPenstock, body: Any, field: str) -> None:
        error = await penstock.refused("budget.create", body)
        assert error.code == "invalid_request" and field in error.message

    async def test_what_does_not_exist(self, penstock: RunningPenstock) -> None:
        for verb in ("budget.get", "budget.reset", "budget.delete"):
            assert (await penstock.refused(verb, {"budget_id": NOWHERE})).code == "budget_not_found"
        body: Any = {"budget_id": NOWHERE, "dimensions": {"tokens": 1}}
        assert (await penstock.refused("budget.replenish", body)).code == "budget_not_found"
        error = await penstock.refused("execution.create", {"kind": "t", "budget_ids": [NOWHERE]})
        assert error.code == "budget_not_found"
        flow = {
            "controller_id": "c",
            "goal": "g",
            "owner": "o",
            "members": [{"key": "a", "kind": "t", "budget_ids": [NOWHERE]}],
        }
        assert (await penstock.refused("flow.create", flow)).code == "budget_not_found"

    async def test_replenishing_a_dimension_that_is_not_there(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock)
        error = await penstock.refused("budget.replenish", {"budget_id": budget_id, "dimensions": {"usd": 1}})
        assert error.code == "invalid_request" and error.detail["field"] == "dimensions.usd"


class TestUsage:
    async def test_reports_add_up_and_say_when_a_limit_is_passed(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock, hard=100, soft=50, on_hard="deny")
        await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        reply = await report(penstock, task, budget_id, 50)
        assert (reply["status"], reply["dimensions"]["tokens"]) == (
            "ok",
            {"current": 50, "limit": 100, "soft": 50},
        )
        assert (await report(penstock, task, budget_id, 1))["status"] == "soft_breach"
        assert await used(penstock, budget_id) == 51

    async def test_a_dedup_key_counts_once(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock)
        await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        assert (await report(penstock, task, budget_id, 10, dedup_key="a"))["status"] == "ok"
        again = await report(penstock, task, budget_id, 10, dedup_key="a")
        assert again["status"] == "already_applied" and again["dimensions"]["tokens"]["current"] == 10
        assert (await report(penstock, task, budget_id, 10, dedup_key="b"))["status"] == "ok"

    async def test_deny_refuses_what_would_pass_the_limit(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock, on_hard="deny", reset_every_ms=60_000)
        execution_id = await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        await report(penstock, task, budget_id, 90)
        with pytest.raises(Exception) as caught:
            await report(penstock, task, budget_id, 11, dedup_key="a")
        error: Any = caught.value
        assert error.code == "budget_exceeded" and 0 < error.retry_after_ms <= 60_000
        assert {"dimension": "tokens", "current": 90, "hard": 100}.items() <= error.detail.items()
        assert await used(penstock, budget_id) == 90
        assert (await penstock.get(execution_id))["state"] == "running"
        # A refused report does not use up its dedup key.
        assert (await report(penstock, task, budget_id, 10, dedup_key="a"))["status"] == "ok"

    async def test_the_fence_is_checked(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock)
        await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        error = await penstock.refused(
            "lease.usage",
            {**fence(task), "lease_id": "other", "budget_id": budget_id, "dimensions": {"tokens": 1}},
        )
        assert error.code == "stale_lease"
        await penstock.request("lease.complete", fence(task))
        error = await penstock.refused(
            "lease.usage", {**fence(task), "budget_id": budget_id, "dimensions": {"tokens": 1}}
        )
        assert error.code == "execution_not_active"
        assert await used(penstock, budget_id) == 0

    async def test_only_budgets_that_the_execution_lists(self, penstock: RunningPenstock) -> None:
        budget_id, other = await make_budget(penstock), await make_budget(penstock)
        await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        for unlisted in (other, NOWHERE):
            body = {**fence(task), "budget_id": unlisted, "dimensions": {"tokens": 1}}
            assert (await penstock.refused("lease.usage", body)).code == "budget_not_found"

    @pytest.mark.parametrize(
        ("dimensions", "field"),
        [
            ({}, "dimensions"),
            ({"tokens": -1}, "dimensions"),
            ({"usd": 1}, "dimensions.usd"),
            ({"tokens": 0.5}, "dimensions"),
        ],
    )
    async def test_bad_reports_are_refused(
        self, penstock: RunningPenstock, dimensions: Any, field: str
    ) -> None:
        budget_id = await make_budget(penstock)
        await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        error = await penstock.refused(
            "lease.usage", {**fence(task), "budget_id": budget_id, "dimensions": dimensions}
        )
        assert error.code == "invalid_request" and field in error.message
        assert await used(penstock, budget_id) == 0

    async def test_many_reporters_lose_and_double_nothing(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock, hard=10**9)
        for _ in range(8):
            await penstock.create(budget_ids=[budget_id])
        tasks = await penstock.take(8, start=True)
        while len(tasks) < 8:
            tasks += await penstock.take(8, start=True)

        async def storm(task: dict[str, Any], seed: int) -> int:
            """Report usage in batches, half of each batch twice. Return the sum of the distinct reports."""
            total = 0
            for turn in range(5):
                bodies = [
                    {
                        **fence(task),
                        "budget_id": budget_id,
                        "dimensions": {"tokens": seed + n},
                        "dedup_key": f"{seed}.{turn}.{n}",
                    }
                    for n in range(20)
                ]
                total += sum(body["dimensions"]["tokens"] for body in bodies)
                answers = await asyncio.gather(
                    penstock.request("lease.usage", bodies), penstock.request("lease.usage", bodies[:10])
                )
                assert all("ok" in answer for answer in answers[0] + answers[1])
            return total

        totals = await asyncio.gather(*(storm(task, seed) for seed, task in enumerate(tasks, 1)))
        assert await used(penstock, budget_id) == sum(totals)

    async def test_a_batch_is_answered_one_by_one(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock)
        await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        good = {**fence(task), "budget_id": budget_id, "dimensions": {"tokens": 1}}
        answers = await penstock.request(
            "lease.usage", [good, {**good, "lease_epoch": 9}, {**good, "budget_id": NOWHERE}]
        )
        assert answers[0]["ok"]["status"] == "ok"
        assert [answer["error"]["code"] for answer in answers[1:]] == ["stale_lease", "budget_not_found"]


class TestHardBreach:
    async def test_the_reporter_is_suspended_and_comes_back(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock)
        execution_id = await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        assert (await report(penstock, task, budget_id, 100))["status"] == "ok"
        reply = await report(penstock, task, budget_id, 1, dedup_key="last")
        assert (reply["status"], reply["state"]) == ("hard_breach", "suspended")
        record = await penstock.get(execution_id)
        assert (record["state"], record["reason"], record["lease"]) == ("suspended", "budget", None)
        # A repeat of the same report is answered; a new report is refused.
        assert (await report(penstock, task, budget_id, 1, dedup_key="last"))["status"] == "already_applied"
        body = {**fence(task), "budget_id": budget_id, "dimensions": {"tokens": 1}}
        assert (await penstock.refused("lease.usage", body)).code == "stale_lease"
        assert await used(penstock, budget_id) == 101
        assert (await penstock.request("budget.get", {"budget_id": budget_id}))["suspended"] == 1

        await penstock.request("budget.replenish", {"budget_id": budget_id, "dimensions": {"tokens": 1}})
        assert (await penstock.get(execution_id))["state"] == "suspended"  # 101 of 101 used: nothing left
        await penstock.request("budget.replenish", {"budget_id": budget_id, "dimensions": {"tokens": 50}})
        record = await penstock.reaches(execution_id, "ready")
        again = await penstock.begin()
        assert again["resumed"] is True and again["attempt_index"] == task["attempt_index"]
        assert again["lease_epoch"] == task["lease_epoch"] + 1
        resumed_by = await penstock.request("signal.resumed_by", fence(again))
        assert resumed_by["items"] == []
        await penstock.request("lease.complete", fence(again))
        assert (await penstock.get(execution_id))["attempt_index"] == 1
        assert [name for name in await names(penstock, execution_id) if name in ("suspended", "resumed")] == [
            "suspended",
            "resumed",
        ]

    async def test_fail_ends_it_for_good(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock, on_hard="fail")
        execution_id = await penstock.create(budget_ids=[budget_id], max_attempts=5)
        task = await penstock.begin()
        reply = await report(penstock, task, budget_id, 101)
        assert (reply["status"], reply["state"]) == ("hard_breach", "failed")
        record = await penstock.get(execution_id)
        assert record["state"] == "failed" and record["failure"]["category"] == "budget_exceeded"

    @pytest.mark.parametrize("verb", ["budget.reset", "budget.delete"])
    async def test_reset_and_delete_bring_the_suspended_back(
        self, penstock: RunningPenstock, verb: str
    ) -> None:
        budget_id = await make_budget(penstock)
        ids = [await penstock.create(budget_ids=[budget_id]) for _ in range(3)]
        tasks: list[Any] = []
        while len(tasks) < 3:
            tasks += await penstock.take(3, start=True)
        for task in tasks:
            assert (await report(penstock, task, budget_id, 101))["state"] == "suspended"
        await penstock.request(verb, {"budget_id": budget_id})
        for execution_id in ids:
            await penstock.reaches(execution_id, "ready")

    async def test_a_period_that_ends_brings_them_back(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock, reset_every_ms=3_600_000)
        execution_id = await penstock.create(budget_ids=[budget_id], lane="a")
        held = await penstock.create(budget_ids=[budget_id], lane="b")
        task = await penstock.begin(lanes=["a"])
        assert (await report(penstock, task, budget_id, 101))["state"] == "suspended"
        assert await penstock.take(lanes=["b"], wait_ms=0) == []
        penstock.move_clock(3_600_001)
        await penstock.reaches(execution_id, "ready")
        assert (await penstock.begin(lanes=["b"]))["execution_id"] == held
        assert await used(penstock, budget_id) == 0

    async def test_a_reporter_that_dies_in_between_is_suspended_by_the_due_loop(
        self, penstock: RunningPenstock
    ) -> None:
        """The lease-keeper records the usage but dies before it ends the lease."""
        budget_id = await make_budget(penstock)
        execution_id = await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin(lease_ttl_ms=600_000)
        keeper = penstock.running["lease-keeper"].context.machine
        await keeper.run(
            ops.Usage(
                budget_id=budget_id,
                execution_id=execution_id,
                lease_id=task["lease_id"],
                dimensions={"tokens": 101},
            )
        )
        assert (await penstock.get(execution_id))["state"] == "running"
        pushed = await penstock.nats.subscribe(f"{penstock.root}.worker.w1")
        await penstock.nats.flush()
        penstock.move_clock(3000)
        await penstock.reaches(execution_id, "suspended")
        # The worker got no reply to its report, so a push tells it.
        assert (
            msgspec.json.decode((await pushed.next_msg(timeout=WAIT_S)).data)["execution_id"] == execution_id
        )
        error = await penstock.refused("lease.renew", fence(task))
        assert error.code == "lease_revoked"
        await penstock.request("budget.reset", {"budget_id": budget_id})
        await penstock.reaches(execution_id, "ready")

    async def test_one_that_is_canceled_meanwhile_stays_so(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock)
        execution_id = await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        await report(penstock, task, budget_id, 101)
        await penstock.request("execution.cancel", {"execution_id": execution_id})
        await penstock.request("budget.reset", {"budget_id": budget_id})

        async def suspended() -> int:
            return (await penstock.request("budget.get", {"budget_id": budget_id}))["suspended"]

        await penstock.until(suspended, lambda n: n == 0, "nobody held")
        assert (await penstock.get(execution_id))["state"] == "canceled"

    async def test_more_than_a_slice_comes_back(self, penstock: RunningPenstock) -> None:
        count = 230
        budget_id = await make_budget(penstock)
        specs = [{"kind": "t", "budget_ids": [budget_id]} for _ in range(count)]
        ids = [answer["ok"]["execution_id"] for answer in await penstock.request("execution.create", specs)]
        tasks: list[Any] = []
        while len(tasks) < count:
            tasks += await penstock.take(100, start=True)
        bodies = [{**fence(task), "budget_id": budget_id, "dimensions": {"tokens": 101}} for task in tasks]
        answers = await penstock.request("lease.usage", bodies)
        assert {answer["ok"]["state"] for answer in answers} == {"suspended"}
        await penstock.request("budget.reset", {"budget_id": budget_id})
        for execution_id in ids:
            await penstock.reaches(execution_id, "ready")


class TestAdmission:
    async def test_nothing_begins_under_an_exhausted_budget(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock, on_hard="deny")
        lane = f"l{secrets.token_hex(3)}"
        await penstock.create(budget_ids=[budget_id])
        task = await penstock.begin()
        await report(penstock, task, budget_id, 100)
        held = await penstock.create(budget_ids=[budget_id], lane=lane)
        error = await penstock.refused("work.grant", {"worker_id": "w2", "lanes": [lane], "max": 1})
        assert error.code == "budget_exceeded"
        free = await penstock.create(lane=lane)
        tasks = await penstock.take(2, lanes=[lane], start=True)
        assert [each["execution_id"] for each in tasks] == [free]
        record = await penstock.get(held)
        assert (record["state"], record["reason"]) == ("ready", "budget")
        waiting = asyncio.create_task(penstock.take(1, lanes=[lane], wait_ms=20_000))
        await penstock.request("budget.replenish", {"budget_id": budget_id, "dimensions": {"tokens": 1}})
        assert [each["execution_id"] for each in await waiting] == [held]

    async def test_a_deleted_budget_limits_nothing(self, penstock: RunningPenstock) -> None:
        budget_id = await make_budget(penstock, hard=0)
        execution_id = await penstock.create(budget_ids=[budget_id])
        assert await penstock.take(wait_ms=0) == []
        waiting = asyncio.create_task(penstock.take(1, wait_ms=20_000))
        await penstock.request("budget.delete", {"budget_id": budget_id})
        [task] = await waiting
        assert task["execution_id"] == execution_id
        assert (await penstock.refused("budget.get", {"budget_id": budget_id})).code == "budget_not_found"
        body = {**fence(task), "budget_id": budget_id, "dimensions": {"tokens": 1}}
        assert (await penstock.refused("lease.usage", body)).code == "budget_not_found"


class TestSdk:
    async def test_a_task_reports_and_goes_on_after_a_replenishment(self, penstock: RunningPenstock) -> None:
        seen: list[str] = []
        async with await Client.connect(penstock.settings.nats_url, root=penstock.root) as client:
            budget = await client.budgets.create({"tokens": {"soft": 5, "hard": 10}})
            worker = Worker(penstock.settings.nats_url, root=penstock.root, concurrency=2)

            @worker.handler("spend")
            async def spend(task: Task) -> str:
                usage = await task.report_usage(budget.budget_id, {"tokens": 11})
                seen.append(usage.status)
                return "nobody gets this" if task.consumed else "done"

            running = asyncio.create_task(worker.run(handle_signals=False))
            try:
                run = await client.submit("spend", budget_ids=[budget.budget_id])
                await penstock.reaches(run.execution_id, "suspended")
                assert (await client.budgets.get(budget.budget_id)).suspended == 1
                await client.budgets.replenish(budget.budget_id, {"tokens": 100})
                assert await run.result(timeout=WAIT_S) == "done"
            finally:
                worker.stop()
                await asyncio.wait_for(running, WAIT_S)
            assert seen == ["hard_breach", "ok"]
            assert (await client.budgets.reset(budget.budget_id)).dimensions["tokens"].used == 0
            await client.budgets.delete(budget.budget_id)
