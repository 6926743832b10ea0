"""`task.wait_event`: durable functions wait for published events, which may come first, late, twice or for others."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from journals import append, journal
from lifecycles import running
from penstock import Client, Signal, SyncTask, Task, Worker
from penstock.testing import Penstock, crash_everywhere
from running_penstock import WAIT_S, RunningPenstock, fence

HOUR_MS = 3_600_000


async def publish(
    penstock: Penstock, body: Any, correlation_id: str = "o1", *, topic: str = "shop.paid", **headers: str
) -> None:
    await penstock.js.publish(
        f"{penstock.root}.event.{topic}",
        msgspec.json.encode(body),
        headers={"Penstock-Correlation-Id": correlation_id, **headers},
    )


def told(event: Signal | None) -> Any:
    return None if event is None else [event.name, event.source, event.payload]


async def test_an_event_ends_the_wait_before_and_after_it_began(
    penstock: RunningPenstock, client: Client
) -> None:
    worker = Worker(concurrency=4, grace=5.0)

    @worker.handler("order")
    async def order(task: Task, order: str) -> list[Any]:
        first = await task.wait_event("shop.paid", order)
        second = await task.wait_event("shop.paid", order)
        await task.sleep("wait", timedelta(hours=1))
        return [told(first), told(second)]

    await penstock.run_worker(worker)
    waiting = await client.submit("order", {"order": "o1"})
    await penstock.wait_for(waiting, "suspended")
    await publish(penstock, 1, "other")
    await publish(penstock, 1)

    async def keys() -> list[str]:
        return [
            each["key"]
            for each in await journal(penstock, waiting.execution_id)
            if each["status"] == "waiting"
        ]

    # The event has ended one wait, and does not end the next.
    await penstock.until(keys, lambda found: found == ["event:shop.paid@2"])
    await penstock.wait_for(waiting, "suspended")
    late = await client.submit("order", {"order": "o1"})

    async def late_keys() -> list[str]:
        return [each["key"] for each in await journal(penstock, late.execution_id)]

    await penstock.until(late_keys, lambda found: found == ["event:shop.paid", "event:shop.paid@2"])
    await publish(penstock, {"n": 2}, **{"Nats-Msg-Id": "two"})
    await publish(penstock, {"n": 2}, **{"Nats-Msg-Id": "two"})
    for run in (waiting, late):
        await penstock.until(lambda run=run: sleeps(penstock, run.execution_id), bool)
        await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    for run in (waiting, late):
        assert await run.result(timeout=WAIT_S) == [
            ["shop.paid", "event", 1],
            ["shop.paid", "event", {"n": 2}],
        ]


async def sleeps(penstock: RunningPenstock, execution_id: str) -> bool:
    return "sleep:wait" in [each["key"] for each in await journal(penstock, execution_id)]


async def test_an_event_that_does_not_come_in_time(penstock: RunningPenstock, client: Client) -> None:
    worker = Worker(concurrency=4, grace=5.0)

    @worker.handler("order")
    def order(task: SyncTask) -> Any:
        return told(task.wait_event("shop.paid", "o1", timeout=timedelta(hours=1), default=None))

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) is None
    await publish(penstock, 1)  # nobody waits any more: it is kept for the next
    again = await client.submit("order")
    assert await again.result(timeout=WAIT_S) == ["shop.paid", "event", 1]


async def test_many_executions_and_races_between_event_and_wait(
    penstock: RunningPenstock, client: Client
) -> None:
    worker = Worker(concurrency=16, grace=5.0)

    @worker.handler("order")
    async def order(task: Task) -> Any:
        first, other = await task.parallel(
            task.wait_event("shop.paid", "o1", key=1), task.wait_event("shop.packed", "o1", key=2)
        )
        return [first.payload, other.payload]

    await penstock.run_worker(worker)
    runs = [await client.submit("order") for _ in range(10)]
    publishing = asyncio.gather(publish(penstock, "paid"), publish(penstock, "packed", topic="shop.packed"))
    runs += [await client.submit("order") for _ in range(15)]
    await publishing
    for run in runs:
        assert await run.result(timeout=WAIT_S) == ["paid", "packed"]


async def test_wrong_events_are_refused(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    for event, path in (
        ({"topic": "a b", "correlation_id": "x"}, "topic"),
        ({"topic": "a", "correlation_id": ""}, "correlation_id"),
        ({"topic": "a"}, "correlation_id"),
    ):
        entry = {"key": "event:a", "kind": "event", "status": "waiting", "signal": {"event": event}}
        error = await penstock.refused("journal.append", fence(task) | {"entries": [entry]})
        assert error.code == "invalid_request" and path in error.message
    good = {"topic": "a", "correlation_id": "x"}
    entry = {"key": "event:a", "kind": "event", "status": "waiting", "signal": {"event": good}}
    await append(penstock, task, entry)


@pytest.mark.parametrize("topic", ["", "a b", "a..b", "a" * 129])
async def test_wrong_topics_fail_before_anything_is_stored(
    penstock: RunningPenstock, client: Client, topic: str
) -> None:
    worker = Worker(concurrency=4, grace=5.0)

    @worker.handler("order")
    async def order(task: Task) -> str:
        try:
            await task.wait_event(topic, "o1")
        except ValueError as error:
            return str(error)
        return ""

    await penstock.run_worker(worker)
    run = await client.submit("order")
    assert await run.result(timeout=WAIT_S)
    assert await journal(penstock, run.execution_id) == []


async def test_a_crash_everywhere(penstock: RunningPenstock) -> None:
    worker = Worker(concurrency=4, grace=5.0)

    @worker.handler("order")
    async def order(task: Task) -> Any:
        event = await task.wait_event("shop.paid", "o1", timeout=timedelta(days=1))
        return await task.step("ship", lambda: event.payload)

    places = await crash_everywhere(penstock, worker, "order", signals={"shop.paid": 7})
    assert {place.verb for place in places} == {"journal.append", "lease.park", "lease.complete"}
