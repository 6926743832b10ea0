"""Eager hand-out: a new execution goes to a worker that waits for such work, in the step that creates it."""

import asyncio
import time
from typing import Any

from flow_bodies import Graph
from lifecycles import names
from running_penstock import RunningPenstock

HOUR_MS = 3_600_000


async def waiting(
    penstock: RunningPenstock, most: int = 1, **options: Any
) -> asyncio.Task[list[dict[str, Any]]]:
    """Return a call for work that waits, when all partitions are known to have nothing for it."""
    options = {"lanes": ["eager"], "lease_ttl_ms": HOUR_MS, "start": True, **options}
    assert await penstock.take(most, **options | {"wait_ms": 0}) == []
    call = asyncio.create_task(penstock.take(most, **options | {"wait_ms": 60_000}))
    await penstock.take(
        1, worker_id="other", lanes=["other"], wait_ms=0
    )  # so that the call before is in line
    return call


async def queues(penstock: RunningPenstock) -> list[str]:
    """Return the keys of queues, and of the indexes that lead to them."""
    of_queues = ("q:eager", "ring:eager", "fronts:eager", "kinds:eager", "turns:eager")
    return [key for key in await penstock.keys() if key.split("}:")[-1].startswith(of_queues)]


async def test_it_goes_to_the_worker_and_never_to_a_queue(penstock: RunningPenstock) -> None:
    call = await waiting(penstock)
    body = {"kind": "t", "lane": "eager", "input": [1], "idempotency_key": "k", "fairness_key": "f"}
    created = await penstock.request("execution.create", body)
    [task] = await call
    assert created == {"execution_id": task["execution_id"], "state": "ready", "duplicate": False}
    assert (task["input"], task["attempt_index"]) == ([1], 1)
    assert await queues(penstock) == []
    assert await names(penstock, task["execution_id"]) == ["created", "started"]
    assert (await penstock.get(task["execution_id"]))["state"] == "running"
    # The request again is answered alike, and hands nothing out a second time.
    call = await waiting(penstock)
    assert await penstock.request("execution.create", body) == created | {"duplicate": True}
    other = await penstock.create(lane="eager")
    assert [task["execution_id"] for task in await call] == [other]


async def test_one_worker_gets_several_at_once(penstock: RunningPenstock) -> None:
    call = await waiting(penstock, 3)
    answers = await penstock.request("execution.create", [{"kind": "t", "lane": "eager"} for _ in range(3)])
    assert {task["execution_id"] for task in await call} == {each["ok"]["execution_id"] for each in answers}
    assert await queues(penstock) == []


async def test_workers_share(penstock: RunningPenstock) -> None:
    calls = [await waiting(penstock, 2, worker_id=f"w{n}") for n in range(2)]
    answers = await penstock.request("execution.create", [{"kind": "t", "lane": "eager"} for _ in range(4)])
    taken = await asyncio.gather(*calls)
    assert [len(tasks) for tasks in taken] == [2, 2]
    ids = {task["execution_id"] for tasks in taken for task in tasks}
    assert ids == {each["ok"]["execution_id"] for each in answers}


async def test_more_than_there_is_room_for_go_by_priority(penstock: RunningPenstock) -> None:
    call = await waiting(penstock, 2)
    bodies = [{"kind": "t", "lane": "eager", "priority": n} for n in range(5)]
    answers = await penstock.request("execution.create", bodies)
    best = {answers[n]["ok"]["execution_id"] for n in (3, 4)}
    assert {task["execution_id"] for task in await call} == best


async def test_who_cannot_begin_waits(penstock: RunningPenstock) -> None:
    """Of the future, another kind, lane or capability, a paused lane, behind a limit, in a flow that has not begun."""
    flow = (await Graph.of(penstock, "a", start=False)).flow_id
    call = await waiting(penstock, 10, kinds=["t"], capabilities=["cpu"])
    in_an_hour = int(time.time() * 1000) + HOUR_MS
    for unfit in (
        {"run_at": in_an_hour}, {"kind": "u"}, {"lane": "elsewhere"}, {"capabilities": ["gpu"]}, {"flow_id": flow},
    ):  # fmt: skip
        await penstock.request("execution.create", {"kind": "t", "lane": "eager"} | unfit)
    await penstock.request("lane.pause", {"lane": "eager"})
    held = [await penstock.create(kind="t", lane="eager")]
    assert (await penstock.get(held[0]))["state"] == "ready"
    assert not call.done()
    held += [await penstock.create(kind="t", lane="eager", concurrency_key="c") for _ in range(2)]
    await penstock.request("lane.resume", {"lane": "eager"})
    got = await call
    while len(got) < 2:
        got += await penstock.take(10, lanes=["eager"], kinds=["t"], start=True)
    assert {task["execution_id"] for task in got} in ({held[0], held[1]}, {held[0], held[2]})


async def test_a_worker_that_is_gone_gives_it_back(penstock: RunningPenstock) -> None:
    assert await penstock.take(1, lanes=["eager"], wait_ms=0) == []
    body = b'{"worker_id": "gone", "lanes": ["eager"], "wait_ms": 20000, "lease_ttl_ms": 86400000, "start": true}'
    await penstock.nats.publish(f"{penstock.root}.v1.work.next", body, reply=f"_INBOX.{penstock.root}.gone")
    execution_id = await penstock.create(lane="eager")
    [task] = await penstock.take(1, lanes=["eager"], wait_ms=20_000, worker_id="next")
    assert (task["execution_id"], task["attempt_index"]) == (execution_id, 1)
    assert (await penstock.get(execution_id))["reclaims"] == 0
