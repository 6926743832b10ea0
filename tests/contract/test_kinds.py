"""Work goes only to workers that take its kind; among the kinds that a worker takes, priority and age decide."""

import asyncio
import random
from typing import Any

import pytest

from penstock import Client, Worker
from running_penstock import RunningPenstock, fence

MANY = 300


async def create_all(penstock: RunningPenstock, specs: list[dict[str, Any]]) -> list[str]:
    """Create executions one after the other, so that each is older than the next in its partition."""
    answers = [await penstock.request("execution.create", {"kind": "t", **spec}) for spec in specs]
    return [answer["execution_id"] for answer in answers]


async def kinds_of(penstock: RunningPenstock, most: int = 1000, **options: Any) -> list[str]:
    return [task["kind"] for task in await penstock.take(most, wait_ms=0, **options)]


class TestWhoGetsWhat:
    async def test_names_prefixes_and_all(self, penstock: RunningPenstock) -> None:
        kinds = ["mail.send", "mail.sort.fast", "mail", "mailer.x", "pay"]
        await penstock.request("execution.create", [{"kind": kind} for kind in kinds])
        assert await kinds_of(penstock, kinds=["nothing", "such.*"]) == []
        assert sorted(await kinds_of(penstock, kinds=["mail.*"])) == ["mail.send", "mail.sort.fast"]
        assert await kinds_of(penstock, kinds=["mail", "send", "mail.*"]) == ["mail"]
        assert sorted(await kinds_of(penstock)) == ["mailer.x", "pay"]

    async def test_grants(self, penstock: RunningPenstock) -> None:
        mail, pay = await create_all(penstock, [{"kind": "mail.send"}, {"kind": "pay"}])
        body = {"worker_id": "w", "max": 5}
        [grant] = (await penstock.request("work.grant", {**body, "kinds": ["pay"]}))["items"]
        assert grant["execution_id"] == pay
        refusal = await penstock.refused("work.grant", {**body, "kinds": ["pay"]})
        assert refusal.code == "no_eligible_execution"
        [grant] = (await penstock.request("work.grant", {**body, "kinds": ["mail.*"]}))["items"]
        assert grant["execution_id"] == mail

    async def test_with_capabilities(self, penstock: RunningPenstock) -> None:
        specs = [
            {"kind": kind, "capabilities": caps} for kind in "ab" for caps in (["gpu"], ["big", "gpu"], [])
        ]
        await create_all(penstock, specs)
        assert await kinds_of(penstock, kinds=["a"]) == ["a"]
        assert await kinds_of(penstock, kinds=["a"], capabilities=["gpu"]) == ["a"]
        assert sorted(await kinds_of(penstock, capabilities=["gpu", "big"])) == ["a", "b", "b", "b"]

    async def test_a_limit_of_another_kind_is_not_what_holds_it(self, penstock: RunningPenstock) -> None:
        one = {"kind": "a", "concurrency_key": "k", "concurrency_limit": 1}
        await create_all(penstock, [one, one])
        task = await penstock.begin(kinds=["a"])
        body = {"worker_id": "w"}
        held = await penstock.refused("work.grant", {**body, "kinds": ["a"]})
        assert held.code == "concurrency_limit_exceeded"
        assert (
            await penstock.refused("work.grant", {**body, "kinds": ["b"]})
        ).code == "no_eligible_execution"
        await penstock.request("lease.complete", fence(task))
        await penstock.begin(kinds=["a"])

    async def test_priority_then_age_over_many_kinds(self, penstock: RunningPenstock) -> None:
        """The order is that of one queue, for a worker that takes all kinds and for one that takes two thirds."""
        chance = random.Random(7)
        specs = [{"kind": f"k.{n % 3}.{n}", "priority": chance.randint(-3, 3)} for n in range(MANY)]
        for lane, kinds in (("some", ["k.0.*", *(f"k.1.{n}" for n in range(MANY))]), ("all", None)):
            ids = await create_all(penstock, [{"lane": lane, **spec} for spec in specs])
            records = {each: await penstock.get(each) for each in ids}
            taken: list[str] = []
            while tasks := await penstock.take(7, lanes=[lane], kinds=kinds, wait_ms=0):
                taken += [task["execution_id"] for task in tasks]
            wanted = [each for each in ids if kinds is None or not records[each]["kind"].startswith("k.2.")]
            assert sorted(taken) == sorted(wanted)
            places = [(-records[each]["priority"], records[each]["ready_at"]) for each in taken]
            assert places == sorted(places)

    async def test_fairness_holds_over_kinds(self, penstock: RunningPenstock) -> None:
        many = [{"kind": f"k{n % 60}", "fairness_key": "big"} for n in range(180)]
        few = [{"kind": f"k{n}", "fairness_key": "small", "priority": -1} for n in range(100, 110)]
        await penstock.request("execution.create", many)
        await penstock.request("execution.create", few)
        taken = [kind for _ in range(12) for kind in await kinds_of(penstock, 5)]
        assert sum(int(kind[1:]) >= 100 for kind in taken) == 10, "the small tenant has half of the turns"


class TestWaiting:
    async def test_only_who_takes_it_is_woken(self, penstock: RunningPenstock) -> None:
        others = [
            asyncio.create_task(penstock.take(1, kinds=[f"other{n}"], worker_id=f"o{n}", wait_ms=60_000))
            for n in range(3)
        ]
        mine = asyncio.create_task(penstock.take(1, kinds=["mine.*"], worker_id="m", wait_ms=60_000))
        await penstock.request("work.next", {"worker_id": "x", "kinds": ["x"], "wait_ms": 0})
        [execution_id] = await create_all(penstock, [{"kind": "mine.too"}])
        [task] = await mine
        assert task["execution_id"] == execution_id
        assert not any(other.done() for other in others)
        [first] = await create_all(penstock, [{"kind": "other1"}])
        assert (await others[1])[0]["execution_id"] == first
        for other in others:
            other.cancel()

    async def test_work_that_waits_for_its_kind_stays_and_keeps_its_place(
        self, penstock: RunningPenstock
    ) -> None:
        old, new = await create_all(penstock, [{"kind": "new.kind"}, {"kind": "old.kind"}])
        assert await kinds_of(penstock, kinds=["old.kind"]) == ["old.kind"]
        parked = asyncio.create_task(penstock.take(1, kinds=["old.kind"], wait_ms=300))
        assert await parked == []
        assert (await penstock.get(old))["state"] == "ready" and (await penstock.get(old))[
            "attempt_index"
        ] == 0
        [task] = await penstock.take(1, kinds=["new.kind"])
        assert task["execution_id"] == old != new

    async def test_a_resumed_lane_wakes_all(self, penstock: RunningPenstock) -> None:
        await create_all(penstock, [{"kind": "a"}])
        await penstock.request("lane.pause", {"lane": "default"})
        parked = asyncio.create_task(penstock.take(1, kinds=["a"], wait_ms=60_000))
        await penstock.request("work.next", {"worker_id": "x", "kinds": ["a"], "wait_ms": 0})
        await penstock.request("lane.resume", {"lane": "default"})
        assert [task["kind"] for task in await parked] == ["a"]

    async def test_a_retry_wakes_who_takes_it(self, penstock: RunningPenstock) -> None:
        await create_all(
            penstock, [{"kind": "a", "max_attempts": 2, "backoff": {"kind": "fixed", "delay_ms": 0}}]
        )
        task = await penstock.begin(kinds=["a"])
        parked = asyncio.create_task(penstock.begin(kinds=["a"], wait_ms=60_000))
        await penstock.request("lease.fail", {**fence(task), "reason": "r"})
        assert (await parked)["execution_id"] == task["execution_id"]


async def test_many_prefixes_are_refused(penstock: RunningPenstock) -> None:
    body = {"worker_id": "w", "wait_ms": 0, "kinds": [f"k{n}.*" for n in range(100)]}
    assert await penstock.request("work.next", body) == {"tasks": []}
    error = await penstock.refused("work.next", {**body, "kinds": [*body["kinds"], "more.*"]})
    assert (error.code, error.detail["field"]) == ("invalid_request", "kinds")


class TestWhoIsThere:
    async def test_explain(self, penstock: RunningPenstock) -> None:
        [execution_id] = await create_all(penstock, [{"kind": "pay"}])
        about = {"execution_id": execution_id}
        await penstock.request("worker.register", {"worker_id": "w1", "kinds": ["mail.*"]})
        await penstock.request("worker.register", {"worker_id": "w2", "lanes": ["other"], "kinds": ["pay"]})
        why = await penstock.request("execution.explain", about)
        assert "No live worker takes kind 'pay'" in why["explanation"]
        assert "lane 'default' is served by 'w1'" in why["explanation"]
        assert "handler for 'pay'" in why["advice"]
        assert why["waiting_for"]["kind"] == "handler" and why["waiting_for"]["serving"] == ["w1"]
        await penstock.request("worker.heartbeat", {"worker_id": "w1", "kinds": ["mail.*", "pay"]})
        why = await penstock.request("execution.explain", about)
        assert "1 of 1 workers of lane 'default' can take it" in why["explanation"]

    async def test_the_registry_shows_kinds(self, penstock: RunningPenstock) -> None:
        told = await penstock.request("worker.register", {"worker_id": "w1", "kinds": ["b", "a", "b"]})
        assert told["kinds"] == ["a", "b"]
        await penstock.request("worker.register", {"worker_id": "w2"})
        items = (await penstock.request("worker.list"))["items"]
        assert {each["worker_id"]: each.get("kinds") for each in items} == {"w1": ["a", "b"], "w2": None}

    @pytest.mark.parametrize("verb", ["work.next", "work.grant", "worker.register", "worker.heartbeat"])
    @pytest.mark.parametrize(
        "kinds", [[], ["*"], ["a*"], ["a.*.b"], ["a b"], [""], ["k"] * 1001, "mail", [7]]
    )
    async def test_bad_kinds(self, penstock: RunningPenstock, verb: str, kinds: Any) -> None:
        error = await penstock.refused(verb, {"worker_id": "w", "kinds": kinds})
        assert error.code == "invalid_request" and error.detail["field"].startswith("kinds")


async def test_a_worker_of_the_sdk_leaves_what_it_does_not_know(penstock: RunningPenstock) -> None:
    """A new kind waits for the new workers during a deploy, while old workers go on with the old kinds."""
    old = Worker(penstock.settings.nats_url, root=penstock.root, worker_id="old", grace=5.0)

    @old.handler("known")
    async def known() -> str:
        return "done"

    async with await Client.connect(penstock.settings.nats_url, root=penstock.root) as client:
        running = asyncio.create_task(old.run(handle_signals=False))
        unknown = await client.submit("unknown")
        assert await (await client.submit("known")).result() == "done"
        assert [each.kinds async for each in client.workers.list()] == [["known"]]
        assert (await client.get(unknown.execution_id)).state == "ready"
        old.stop()
        await running
