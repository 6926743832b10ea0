"""work.next and work.grant: which worker gets which work, and when; tested over NATS only."""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from flow_bodies import Graph
from running_penstock import WAIT_S, RunningPenstock, fence

MINUTE = 60_000


async def drained(house: RunningPenstock, **options: Any) -> list[str]:
    """Take all work with one worker, one task per request. Return the execution ids in the order received."""
    order: list[str] = []
    while tasks := await house.take(1, wait_ms=0, **options):
        order += [task["execution_id"] for task in tasks]
    return order


class TestNext:
    async def test_nothing_to_do(self, penstock: RunningPenstock) -> None:
        assert await penstock.request("work.next", {"worker_id": "w", "wait_ms": 0}) == {"tasks": []}
        started = time.monotonic()
        assert await penstock.request("work.next", {"worker_id": "w", "wait_ms": 300}) == {"tasks": []}
        assert time.monotonic() - started >= 0.29

    async def test_a_parked_worker_is_woken_by_new_work(self, nats_url: str, valkey_url: str) -> None:
        async with RunningPenstock.open(
            nats_url, valkey_url, sweep_ms=600_000
        ) as penstock:  # the hint wakes it
            for _ in range(5):
                parked = asyncio.create_task(penstock.take(1, wait_ms=30_000))
                await penstock.request("work.next", {"worker_id": "other", "lanes": ["o"], "wait_ms": 0})
                execution_id = await penstock.create()
                [task] = await parked
                assert task["execution_id"] == execution_id

    async def test_many_parked_workers_get_one_each(self, penstock: RunningPenstock) -> None:
        parked = [asyncio.create_task(penstock.take(1, wait_ms=30_000, worker_id=f"w{n}")) for n in range(20)]
        answers = await penstock.request("execution.create", [{"kind": "t"} for _ in range(20)])
        tasks = [task for one in await asyncio.gather(*parked) for task in one]
        assert {task["execution_id"] for task in tasks} == {each["ok"]["execution_id"] for each in answers}
        assert len(tasks) == 20

    async def test_what_goes_back_wakes_a_parked_worker(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create(max_attempts=2, backoff={"kind": "fixed", "delay_ms": 0})
        task = await penstock.begin()
        parked = asyncio.create_task(penstock.begin(wait_ms=30_000))
        await penstock.request("lease.fail", {**fence(task), "reason": "r"})
        assert (await parked)["execution_id"] == execution_id

    async def test_work_of_the_future_wakes_a_parked_worker(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create(run_at=int(time.time() * 1000) + MINUTE)
        parked = asyncio.create_task(penstock.begin(wait_ms=30_000))
        penstock.move_clock(MINUTE)
        assert (await parked)["execution_id"] == execution_id

    async def test_max(self, penstock: RunningPenstock) -> None:
        await penstock.request("execution.create", [{"kind": "t"} for _ in range(10)])
        assert len(await penstock.take(4)) == 4
        assert len(await penstock.take(1000)) == 6

    async def test_all_partitions_are_found(self, penstock: RunningPenstock) -> None:
        answers = await penstock.request("execution.create", [{"kind": "t"} for _ in range(60)])
        ids = {each["ok"]["execution_id"] for each in answers}
        assert {int(each[0]) for each in ids} == set(range(penstock.settings.partitions))
        assert set(await drained(penstock)) == ids

    async def test_several_lanes(self, penstock: RunningPenstock) -> None:
        one, two = await penstock.create(lane="one"), await penstock.create(lane="two")
        await penstock.create(lane="three")
        assert set(await drained(penstock, lanes=["one", "two"])) == {one, two}

    async def test_a_worker_that_is_gone_gives_its_task_back(self, penstock: RunningPenstock) -> None:
        """The worker's inbox has no subscriber: the lease goes back at once, not when it expires."""
        body = b'{"worker_id": "dead", "wait_ms": 20000, "lease_ttl_ms": 86400000, "start": true}'
        await penstock.nats.publish(
            f"{penstock.root}.v1.work.next", body, reply=f"_INBOX.{penstock.root}.gone"
        )
        await penstock.nats.flush()
        execution_id = await penstock.create()
        task = await penstock.begin(worker_id="alive", wait_ms=20_000)
        assert (task["execution_id"], task["attempt_index"]) == (execution_id, 1)
        assert (await penstock.get(execution_id))["reclaims"] == 0

    async def test_bad_requests(self, penstock: RunningPenstock) -> None:
        bad: dict[str, Any] = {
            "worker_id": "a.b", "lanes": [], "capabilities": ["a,b"], "max": 0, "wait_ms": 60_001, "lease_ttl_ms": 0,
            "start": "yes", "colour": 1,
        }  # fmt: skip
        for field, value in bad.items():
            error = await penstock.refused("work.next", {"worker_id": "w", field: value})
            assert error.code == "invalid_request"
            assert error.detail["field"].startswith(field)
        assert (await penstock.refused("work.next", {})).detail == {"field": "worker_id"}
        error = await penstock.refused("work.next", [{"worker_id": "w"}])
        assert error.code == "invalid_request" and "not an array" in error.message


class TestGrant:
    async def test_grants_are_exclusive(self, penstock: RunningPenstock) -> None:
        answers = await penstock.request("execution.create", [{"kind": "t"} for _ in range(9)])
        seen: list[str] = []
        while len(seen) < 9:
            page = await penstock.request("work.grant", {"worker_id": "w", "max": 4})
            assert page["items"] and page["cursor"] is None
            seen += [grant["execution_id"] for grant in page["items"]]
        assert sorted(seen) == sorted(each["ok"]["execution_id"] for each in answers)
        assert (await penstock.refused("work.grant", {"worker_id": "w"})).code == "no_eligible_execution"

    async def test_an_expired_grant_keeps_its_place(self, penstock: RunningPenstock) -> None:
        first, second = await penstock.create(), await penstock.create()
        await penstock.request("work.grant", {"worker_id": "w"})
        penstock.move_clock(MINUTE)

        async def again() -> Any:
            return (await penstock.request("lane.list"))["items"][0]["depth"]

        await penstock.until(again, lambda depth: depth["ready"] == 2)
        parked = await penstock.until(lambda: penstock.take(2, wait_ms=100), lambda tasks: len(tasks) == 2)
        assert [task["execution_id"] for task in parked] == [first, second]


class TestOrder:
    async def test_first_come_first_served(self, penstock: RunningPenstock) -> None:
        ids = [await penstock.create() for _ in range(12)]
        assert await drained(penstock) == ids

    async def test_priority_comes_before_time(self, penstock: RunningPenstock) -> None:
        priorities = [0, 5, -128, 127, 0, 5]
        ids = [await penstock.create(priority=priority) for priority in priorities]
        assert await drained(penstock) == [ids[3], ids[1], ids[5], ids[0], ids[4], ids[2]]

    async def test_a_batch_keeps_its_order(self, penstock: RunningPenstock) -> None:
        """The order is exact within a partition; across partitions, age is exact to 50 ms."""
        answers = await penstock.request("execution.create", [{"kind": "t"} for _ in range(300)])
        tasks: list[str] = []
        while len(tasks) < len(answers):
            tasks += [task["execution_id"] for task in await penstock.take(100)]
        made = [each["ok"]["execution_id"] for each in answers]
        for partition in range(penstock.settings.partitions):
            start = f"{partition}-"
            assert [each for each in tasks if each.startswith(start)] == [
                each for each in made if each.startswith(start)
            ]
        ages = [(await penstock.get(each))["created_at"] for each in tasks]
        assert all(later >= max(ages[: n + 1]) - 50 for n, later in enumerate(ages))

    async def test_of_two_workers_each_gets_of_the_best(self, penstock: RunningPenstock) -> None:
        """A request for any number of tasks gets the most urgent work of all partitions."""
        ids = {n: await penstock.create(priority=n) for n in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)}
        by_id = {execution_id: n for n, execution_id in ids.items()}
        taken = [[by_id[task["execution_id"]] for task in await penstock.take(most)] for most in (1, 3, 4, 5)]
        assert taken == [[9], [8, 7, 6], [5, 4, 3, 2], [1, 0]]

    async def test_priority_across_capability_sets(self, penstock: RunningPenstock) -> None:
        low = await penstock.create()
        high = await penstock.create(capabilities=["gpu"], priority=1)
        middle = await penstock.create(capabilities=["gpu", "ssd"])
        assert await drained(penstock, capabilities=["ssd", "gpu"]) == [high, low, middle]


class TestCapabilities:
    async def test_only_to_those_who_have_all(self, penstock: RunningPenstock) -> None:
        both = await penstock.create(capabilities=["gpu", "ssd"])
        one = await penstock.create(capabilities=["gpu"])
        none = await penstock.create()
        assert await drained(penstock) == [none]
        assert await drained(penstock, capabilities=["ssd"]) == []
        assert await drained(penstock, capabilities=["gpu", "other"]) == [one]
        assert await drained(penstock, capabilities=["a", "ssd", "gpu", "z"]) == [both]

    async def test_unmatched_work_in_front_does_not_matter(self, penstock: RunningPenstock) -> None:
        await penstock.request(
            "execution.create", [{"kind": "t", "capabilities": ["gpu"], "priority": 100} for _ in range(500)]
        )
        execution_id = await penstock.create()
        assert [task["execution_id"] for task in await penstock.take(10)] == [execution_id]

    async def test_each_parked_worker_hears_of_its_own(self, penstock: RunningPenstock) -> None:
        gpu = asyncio.create_task(penstock.begin(wait_ms=30_000, capabilities=["gpu"], worker_id="a"))
        ssd = asyncio.create_task(penstock.begin(wait_ms=30_000, capabilities=["ssd"], worker_id="b"))
        for_ssd = await penstock.create(capabilities=["ssd"])
        for_gpu = await penstock.create(capabilities=["gpu"])
        assert (await gpu)["execution_id"] == for_gpu
        assert (await ssd)["execution_id"] == for_ssd


class TestFairness:
    async def _backlogs(self, house: RunningPenstock, **sizes: int) -> dict[str, str]:
        """Create each tenant's backlog, one tenant after the other. Return execution id -> tenant."""
        owner: dict[str, str] = {}
        for tenant, size in sizes.items():
            spec = {"kind": "t", "fairness_key": tenant}
            for answer in await house.request("execution.create", [spec] * size):
                owner[answer["ok"]["execution_id"]] = tenant
        return owner

    async def test_a_backlog_starves_nobody(self, penstock: RunningPenstock) -> None:
        owner = await self._backlogs(penstock, big=300, small=5, tiny=2)
        for most in (1, 3):
            tasks = [task for _ in range(12 // most) for task in await penstock.take(most)]
            count = Counter(owner[task["execution_id"]] for task in tasks)
            if most == 1:
                assert count == {"big": 5, "small": 5, "tiny": 2}
            else:
                assert count == {"big": 12}

    async def test_a_newcomer_does_not_own_the_lane(self, penstock: RunningPenstock) -> None:
        owner = await self._backlogs(penstock, one=60, two=60)
        for _ in range(40):
            await penstock.take(1)
        owner |= await self._backlogs(penstock, new=60)
        count = Counter([owner[(await penstock.take(1))[0]["execution_id"]] for _ in range(30)])
        assert count == {"one": 10, "two": 10, "new": 10}

    async def test_tenants_that_are_through_stand_in_nobodys_way(self, penstock: RunningPenstock) -> None:
        owner = await self._backlogs(penstock, **{f"t{n}": 1 + n % 3 for n in range(30)})
        assert set(await drained(penstock)) == set(owner)

    async def test_a_tenants_own_order_is_kept(self, penstock: RunningPenstock) -> None:
        ids = [await penstock.create(fairness_key="t", priority=priority) for priority in (0, 1, 0)]
        assert await drained(penstock) == [ids[1], ids[0], ids[2]]

    async def test_capabilities_give_no_second_share(self, penstock: RunningPenstock) -> None:
        """A tenant's work that needs other capabilities still counts in the tenant's one fairness share."""
        spec = {"kind": "t", "fairness_key": "big"}
        await penstock.request("execution.create", [{**spec, "capabilities": ["gpu"]}] * 50 + [spec] * 50)
        owner = await self._backlogs(penstock, small=10)
        tasks = [(await penstock.take(1, capabilities=["gpu"]))[0]["execution_id"] for _ in range(20)]
        assert sum(each in owner for each in tasks) == 10


class TestOneBatch:
    async def test_work_that_comes_while_a_queue_runs_dry_is_not_lost(
        self, penstock: RunningPenstock
    ) -> None:
        """Create and take work in the same event loop ticks, so that both share calls into Valkey."""
        done: list[str] = []

        async def worker(name: str) -> None:
            while len(done) < 120:
                for task in await penstock.take(2, worker_id=name, wait_ms=200, start=True):
                    await penstock.request("lease.complete", fence(task))
                    done.append(task["execution_id"])

        async def source(tenant: str) -> None:
            for _ in range(40):
                await penstock.create(fairness_key=tenant)

        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*map(source, ("a", "b", "c")), *map(worker, ("v", "w", "x", "y")))
        assert len(set(done)) == 120

    async def test_who_does_not_wait_needs_no_hint(
        self, penstock: RunningPenstock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A request that does not wait finds work that an ending just made ready, even if the hint is lost."""
        graph = await Graph.of(penstock, "a b", "a>b")
        assert await graph.take() == {"a"}
        hints = penstock.running["lease-keeper"].context.hints
        monkeypatch.setattr(hints, "send", lambda *_: None)
        await graph.complete("a")
        assert await graph.take() == {"b"}
