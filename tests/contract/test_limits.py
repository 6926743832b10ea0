"""Quotas and concurrency keys limit how many executions start in a window and run at once; tested over NATS only."""

import asyncio
from typing import Any

import pytest

from running_penstock import NOWHERE, RunningPenstock, fence

HOUR = 3_600_000


async def make_quota(house: RunningPenstock, **limits: Any) -> str:
    return (await house.request("quota.create", limits))["quota_id"]


async def usage(house: RunningPenstock, quota_id: str) -> dict[str, Any]:
    return await house.request("quota.get", {"quota_id": quota_id})


async def refused_grant(house: RunningPenstock) -> Any:
    """Ask twice for work of a full limit. Return the error: the second request finds the queue already blocked."""
    first = await house.refused("work.grant", {"worker_id": "w2"})
    second = await house.refused("work.grant", {"worker_id": "w2"})
    assert first.code == second.code
    return second


class TestQuota:
    async def test_created_and_read(self, penstock: RunningPenstock) -> None:
        made = await penstock.request("quota.create", {"max_per_window": 3, "window_ms": HOUR})
        assert (made["max_per_window"], made["window_ms"], made["max_concurrent"]) == (3, HOUR, None)
        assert (made["running"], made["in_window"], made["retry_after_ms"]) == (0, 0, 0)
        assert {**await usage(penstock, made["quota_id"]), "duplicate": False} == made

    async def test_so_many_at_once(self, penstock: RunningPenstock) -> None:
        quota_id = await make_quota(penstock, max_concurrent=2)
        ids = [await penstock.create(quota_id=quota_id) for _ in range(3)]
        tasks = [await penstock.begin(), await penstock.begin()]
        [held] = set(ids) - {task["execution_id"] for task in tasks}
        error = await refused_grant(penstock)
        assert (error.code, error.error_class, error.number) == (
            "concurrency_limit_exceeded",
            "contention",
            429,
        )
        assert await penstock.take(wait_ms=100) == []
        record = await penstock.get(held)
        assert (record["state"], record["reason"]) == ("ready", "quota")
        assert (await usage(penstock, quota_id))["running"] == 2
        await penstock.request("lease.complete", fence(tasks[0]))
        assert (await penstock.begin())["execution_id"] == held
        assert (await penstock.get(held))["reason"] is None

    async def test_all_that_it_holds_back_say_so(self, penstock: RunningPenstock) -> None:
        """A waiting worker asks all partitions, so executions get the reason in the quota's partition and others."""
        quota_id = await make_quota(penstock, max_concurrent=1)
        made = [await penstock.create(quota_id=quota_id) for _ in range(8)]
        running = await penstock.begin()
        waiting = asyncio.create_task(penstock.take(1, wait_ms=10_000))
        held = [each for each in made if each != running["execution_id"]]

        async def reasons() -> set[str]:
            return {(await penstock.get(each))["reason"] for each in held}

        await penstock.until(reasons, lambda found: found == {"quota"}, "a reason for all")
        await penstock.request("lease.complete", {**fence(running), "result": None})
        assert len(await waiting) == 1

    async def test_so_many_in_a_window(self, penstock: RunningPenstock) -> None:
        quota_id = await make_quota(penstock, max_per_window=2, window_ms=HOUR)
        for _ in range(3):
            await penstock.create(quota_id=quota_id)
        for _ in range(2):
            # An ended execution still counts, because a window counts starts.
            await penstock.request("lease.complete", fence(await penstock.begin()))
        error = await refused_grant(penstock)
        assert (error.code, error.error_class, error.number) == ("rate_limit_exceeded", "contention", 429)
        assert error.retry_after_ms is not None and 0 < error.retry_after_ms <= HOUR + 1
        assert await penstock.take(wait_ms=100) == []
        seen = await usage(penstock, quota_id)
        assert (seen["running"], seen["in_window"]) == (0, 2) and 0 < seen["retry_after_ms"] <= HOUR + 1
        penstock.move_clock(HOUR)
        await penstock.begin()
        assert (await usage(penstock, quota_id))["in_window"] == 1

    async def test_a_deleted_one_limits_nothing(self, penstock: RunningPenstock) -> None:
        quota_id = await make_quota(penstock, max_concurrent=1)
        for _ in range(2):
            await penstock.create(quota_id=quota_id)
        await penstock.begin()
        assert await penstock.take(wait_ms=100) == []
        await penstock.request("quota.delete", {"quota_id": quota_id})
        await penstock.begin()
        for verb in ("quota.get", "quota.delete"):
            error = await penstock.refused(verb, {"quota_id": quota_id})
            assert (error.code, error.detail) == ("quota_not_found", {"quota_id": quota_id})

    async def test_creating_is_idempotent(self, penstock: RunningPenstock) -> None:
        body = {"max_concurrent": 1, "idempotency_key": "q"}
        first = await penstock.request("quota.create", body)
        assert first["duplicate"] is False
        assert await penstock.request("quota.create", body) == {**first, "duplicate": True}
        error = await penstock.refused("quota.create", {**body, "max_concurrent": 2})
        assert error.code == "idempotency_conflict"
        other = await penstock.request("quota.create", {**body, "namespace": "other"})
        assert other["quota_id"] != first["quota_id"]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "max_per_window"),
            ({"max_per_window": 1}, "window_ms"),
            ({"window_ms": 1, "max_concurrent": 1}, "window_ms"),
            ({"max_per_window": 0, "window_ms": 1}, "max_per_window"),
            ({"max_per_window": 1, "window_ms": 0}, "window_ms"),
            ({"max_concurrent": 0}, "max_concurrent"),
            ({"max_concurrent": -1}, "max_concurrent"),
            ({"max_concurrent": 1.5}, "max_concurrent"),
            ({"max_concurrent": 10**9}, "max_concurrent"),
            ({"max_concurrent": 1, "namespace": "a b"}, "namespace"),
        ],
    )
    async def test_bad_quotas(self, penstock: RunningPenstock, body: Any, field: str) -> None:
        error = await penstock.refused("quota.create", body)
        assert (error.code, error.detail) == ("invalid_request", {"field": field})

    async def test_what_names_one_that_is_not_there(self, penstock: RunningPenstock) -> None:
        error = await penstock.refused("execution.create", {"kind": "t", "quota_id": NOWHERE})
        assert (error.code, error.number) == ("quota_not_found", 404)
        member = {"key": "a", "kind": "t", "quota_id": NOWHERE}
        flow = {"controller_id": "c", "goal": "g", "owner": "o", "members": [member]}
        assert (await penstock.refused("flow.create", flow)).code == "quota_not_found"
        assert (await penstock.request("execution.list"))["items"] == []


class TestConcurrencyKey:
    async def test_one_at_a_time_unless_more_are_asked_for(self, penstock: RunningPenstock) -> None:
        for spec, room in (
            ({"concurrency_key": "one"}, 1),
            ({"concurrency_key": "k", "concurrency_limit": 2}, 2),
        ):
            for _ in range(room + 1):
                await penstock.create(**spec)
            tasks = [await penstock.begin() for _ in range(room)]
            assert (await refused_grant(penstock)).code == "concurrency_limit_exceeded"
            assert await penstock.take(wait_ms=100) == []
            await penstock.request("lease.fail", {**fence(tasks[0]), "reason": "r"})
            await penstock.begin()

    async def test_namespaces_have_their_own(self, penstock: RunningPenstock) -> None:
        for namespace in ("a", "b"):
            await penstock.create(concurrency_key="k", namespace=namespace)
        for _ in range(2):
            await penstock.begin()


class TestQueues:
    async def test_a_limit_is_named_only_where_it_holds_work_back(self, penstock: RunningPenstock) -> None:
        for _ in range(2):
            await penstock.create(concurrency_key="full", capabilities=["gpu"])
        task = await penstock.begin(capabilities=["gpu"])
        for capabilities, code in (
            (["gpu"], "concurrency_limit_exceeded"),
            ([], "no_eligible_execution"),
            (["gpu"], "concurrency_limit_exceeded"),
        ):
            error = await penstock.refused("work.grant", {"worker_id": "w2", "capabilities": capabilities})
            assert error.code == code
        elsewhere = await penstock.refused(
            "work.grant", {"worker_id": "w2", "lanes": ["other"], "capabilities": ["gpu"]}
        )
        assert elsewhere.code == "no_eligible_execution"
        await penstock.request("lease.complete", fence(task))
        await penstock.request("lease.complete", fence(await penstock.begin(capabilities=["gpu"])))
        error = await penstock.refused("work.grant", {"worker_id": "w2", "capabilities": ["gpu"]})
        assert error.code == "no_eligible_execution"

    async def test_a_grant_looks_past_what_has_no_room(self, penstock: RunningPenstock) -> None:
        for _ in range(3):
            await penstock.create(concurrency_key="full", priority=9)
        await penstock.begin()
        free = await penstock.create()
        [grant] = (await penstock.request("work.grant", {"worker_id": "w2"}))["items"]
        assert grant["execution_id"] == free

    async def test_one_limit_that_ran_dry_hides_no_other(self, penstock: RunningPenstock) -> None:
        """One lane holds work under many limits, and each request asks for one task."""
        for n in range(4):
            execution_id = await penstock.create(concurrency_key=f"k{n}")
            assert (await penstock.begin())["execution_id"] == execution_id

    async def test_one_limit_without_room_hides_no_other(self, penstock: RunningPenstock) -> None:
        full = await penstock.create(concurrency_key="full")
        assert (await penstock.begin())["execution_id"] == full
        await penstock.create(concurrency_key="full")
        free = [await penstock.create(concurrency_key=f"k{n}") for n in range(3)]
        assert {(await penstock.begin())["execution_id"] for _ in free} == set(free)
