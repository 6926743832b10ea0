"""Durable functions whose code changes while executions are under way, and journals at their bounds."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from journals import journal
from penstock import Client, ExecutionFailed, Task, TaskSuspended, Worker
from penstock.codecs import AesGcm
from running_penstock import WAIT_S, RunningPenstock

HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000
KEY = bytes(range(32))

Handler = Callable[[Task], Awaitable[Any]]


def worker_of(handler: Handler, kind: str = "order", **options: Any) -> Worker:
    worker = Worker(concurrency=8, grace=5.0)
    worker.handler(kind, **options)(handler)
    return worker


async def echo(what: Any) -> Any:
    return what


async def keys(penstock: RunningPenstock, execution_id: str) -> list[str]:
    return [each["key"] for each in await journal(penstock, execution_id)]


async def test_patch_takes_along_those_that_have_not_come_so_far(
    penstock: RunningPenstock, client: Client
) -> None:
    """One execution sleeps before the changed place, one behind it; then the new code is deployed."""

    async def old(task: Task, first_ms: int) -> list[str]:
        done = [await task.step("load", echo, "load")]
        await task.sleep("before", first_ms / 1000)
        done.append(await task.step("way", echo, "old"))
        await task.sleep("behind", HOUR)
        return done

    async def new(task: Task, first_ms: int) -> list[str]:
        done = [await task.step("load", echo, "load")]
        await task.sleep("before", first_ms / 1000)
        way = "new" if task.patch("other-way") else "old"
        done.append(await task.step("way", echo, way))
        await task.sleep("behind", HOUR)
        return [*done, "new" if task.patch("other-end") else "old"]

    before = await penstock.run_worker(worker_of(old))  # pyright: ignore[reportArgumentType]
    early = await client.submit("order", {"first_ms": HOUR_MS})
    late = await client.submit("order", {"first_ms": 0})
    for run, place in ((early, "sleep:before"), (late, "sleep:behind")):
        await penstock.wait_for(run, "suspended")
        assert (await keys(penstock, run.execution_id))[-1] == place
    before.stop()
    await penstock.run_worker(worker_of(new))  # pyright: ignore[reportArgumentType]
    penstock.move_clock(HOUR_MS)
    # Both are at their frontier at the end, when nothing in the journal is left.
    assert await late.result(timeout=WAIT_S) == ["load", "old", "new"]
    assert "patch:other-way" not in await keys(penstock, late.execution_id)

    async def behind() -> bool:
        return "sleep:behind" in await keys(penstock, early.execution_id)

    await penstock.until(behind, bool)
    await penstock.wait_for(early, "suspended")
    assert "patch:other-way" in await keys(penstock, early.execution_id)
    penstock.move_clock(HOUR_MS)
    assert await early.result(timeout=WAIT_S) == ["load", "new", "new"]


async def test_patch_is_refused_in_a_branch(penstock: RunningPenstock, client: Client) -> None:
    async def order(task: Task) -> Any:
        async def branch() -> bool:
            return task.patch("way")

        return await task.parallel(branch())

    await penstock.run_worker(worker_of(order))
    with pytest.raises(ExecutionFailed) as caught:
        await (await client.submit("order")).result(timeout=WAIT_S)
    assert caught.value.category == "step_key_needed"


async def test_a_worker_takes_the_versions_that_it_accepts(penstock: RunningPenstock, client: Client) -> None:
    def version(number: str, accepts: str) -> Worker:
        async def order(task: Task) -> list[Any]:
            await task.step("load", echo, 1)
            await task.sleep("wait", HOUR)
            return [number, task.began("2")]

        return worker_of(order, version=number, accepts=accepts)

    first = await penstock.run_worker(version("1", ">=1"))
    pinned = await client.submit("order")
    await penstock.wait_for(pinned, "suspended")
    first.stop()
    await penstock.run_worker(version("3", ">=2"))
    penstock.move_clock(HOUR_MS)
    await penstock.wait_for(pinned, "ready")
    fresh = await client.submit("order")
    await penstock.wait_for(fresh, "suspended")
    penstock.move_clock(HOUR_MS)
    # The newer execution has passed the older one by, which still waits for a worker of its version.
    assert await fresh.result(timeout=WAIT_S) == ["3", True]
    assert (await client.get(pinned.execution_id)).state == "ready"
    await penstock.run_worker(version("3", ">=2"))  # one that is live by the new time

    async def explanation() -> str:
        return (await client.explain(pinned.execution_id)).explanation

    await penstock.until(
        explanation, lambda told: told.startswith("It needs 'order@1', which no live worker has")
    )
    counts = (await penstock.request("execution.versions", {"kind": "order"}))["items"]
    assert [(each["version"], each["open"]) for each in counts] == [("1", 1)]
    await penstock.run_worker(version("2", ">=1"))
    assert await pinned.result(timeout=WAIT_S) == ["2", False]


async def test_a_mismatch_waits_for_code_that_fits(penstock: RunningPenstock, client: Client) -> None:
    def version(argument: str) -> Worker:
        async def order(task: Task) -> str:
            done = await task.step("charge", echo, argument, on_change="fail")
            await task.sleep("wait", HOUR)
            return done

        return worker_of(order)

    first = await penstock.run_worker(version("a"))
    run = await client.submit("order", max_attempts=1)
    await penstock.wait_for(run, "suspended")
    first.stop()
    wrong = await penstock.run_worker(version("b"))

    async def holds() -> int:
        events = [event async for event in client.history(run.execution_id)]
        return sum(event.reason == "journal_mismatch" for event in events)

    penstock.move_clock(HOUR_MS)
    await penstock.until(holds, lambda count: count == 1, "the hold")
    assert "step:charge" in str(await client.explain(run.execution_id))
    # Resumed on the same code it is held again, and no attempt is used up.
    await client.resume(run.execution_id)
    await penstock.until(holds, lambda count: count == 2, "the second hold")
    record = await client.get(run.execution_id)
    assert (record.state, record.reason, record.attempt_index) == ("suspended", "operator", 1)
    wrong.stop()
    await penstock.run_worker(version("a"))
    await client.resume(run.execution_id)
    assert await run.result(timeout=WAIT_S) == "a"


async def test_the_end_tells_orphans_and_drift(penstock: RunningPenstock, client: Client) -> None:
    async def old(task: Task) -> None:
        await task.step("gone", echo, 1)
        await task.step("kept", echo, 1)
        await task.sleep("wait", HOUR)

    async def new(task: Task) -> None:
        await task.step("kept", echo, 2)
        await task.sleep("wait", HOUR)

    first = await penstock.run_worker(worker_of(old))
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    first.stop()
    await penstock.run_worker(worker_of(new))
    penstock.move_clock(HOUR_MS)
    await run.result(timeout=WAIT_S)
    events = {event.event: event async for event in client.history(run.execution_id)}
    data = events["completed"].data
    assert data is not None and (data["orphans"], data["drift"]) == (["step:gone"], ["step:kept"])


async def test_a_codec_covers_the_journal(penstock: RunningPenstock) -> None:
    codec = AesGcm("k1", {"k1": KEY})
    runs: list[Any] = []
    worker = Worker(codec=codec, concurrency=2)

    @worker.handler("child")
    async def child() -> str:
        return "secret child"

    @worker.handler("order")
    async def order(task: Task) -> list[Any]:
        task.state["stage"] = "secret stage"
        seen = [await task.step("load", echo, "secret step"), await task.child("child", "child")]
        signal = await task.wait_signal("go")
        runs.append([*seen, signal.payload])
        await task.sleep("wait", HOUR)
        return runs[-1]

    client = await penstock.client(codec=codec)
    await penstock.run_worker(worker)
    run = await client.submit("order")

    async def waits() -> bool:
        return "signal:go" in await keys(penstock, run.execution_id)

    await penstock.until(waits, bool)
    await client.send_signal(run.execution_id, "go", "secret signal")

    async def sleeps() -> bool:
        return "sleep:wait" in await keys(penstock, run.execution_id)

    await penstock.until(sleeps, bool)
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    expected = ["secret step", "secret child", "secret signal"]
    assert await run.result(timeout=WAIT_S) == expected
    assert runs == [expected] * 2
    stored = await journal(penstock, run.execution_id)
    assert "secret" not in str(stored)
    assert all(each.get("input_digest") is None for each in stored)


async def test_a_full_journal_names_the_step(nats_url: str, valkey_url: str) -> None:
    async def loop(task: Task) -> None:
        for n in range(1_000_000):
            task.state["n"] = n  # one entry, which goes along with that of the step
            await task.step("step", echo, n)

    async with RunningPenstock.open(nats_url, valkey_url, journal_max_entries=10) as penstock:
        client = await penstock.client()
        await penstock.run_worker(worker_of(loop))
        run = await client.submit("order", max_attempts=5)
        with pytest.raises(ExecutionFailed) as caught:
            await run.result(timeout=WAIT_S)
        assert caught.value.category == "journal_full"
        record = await client.get(run.execution_id)
        assert record.attempt_index == 1
        assert "step:step@10: " in str(caught.value)
        assert len(await journal(penstock, run.execution_id)) == 10


async def test_a_lost_lease_stops_the_handler_in_a_durable_call(
    penstock: RunningPenstock, client: Client
) -> None:
    """The worker that lost the lease comes to nothing: neither its step's result nor its handler's."""
    began, end = asyncio.Event(), asyncio.Event()
    stopped: list[str] = []
    runs: list[int] = []

    async def step(run: int) -> int:
        if run == 1:
            began.set()
            try:
                await end.wait()
            except asyncio.CancelledError:
                stopped.append("step")
                raise
        return run

    async def order(task: Task) -> int:
        runs.append(1)
        try:
            return await task.step("step", step, len(runs))
        except (TaskSuspended, asyncio.CancelledError):
            stopped.append("handler")
            raise

    worker = Worker(concurrency=8, grace=5.0, lease_ttl=1.0)
    worker.handler("order")(order)
    await penstock.run_worker(worker)
    run = await client.submit("order", max_attempts=3)
    await asyncio.wait_for(began.wait(), WAIT_S)
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == 2

    async def told() -> list[str]:
        return stopped

    await penstock.until(told, lambda seen: seen == ["step", "handler"])
    (entry,) = await journal(penstock, run.execution_id)
    assert entry["result"] == 2


async def test_a_sync_step_that_never_returns_while_the_lease_is_lost(
    penstock: RunningPenstock, client: Client
) -> None:
    """A thread cannot be stopped. The execution goes on without it, and what it returns at last is nobody's."""
    began, end = threading.Event(), threading.Event()
    tries: list[int] = []

    def step() -> str:
        tries.append(1)
        if len(tries) > 1:
            return "second"
        began.set()
        assert end.wait(WAIT_S)
        return "first"

    async def order(task: Task) -> str:
        return await task.step("step", step)

    worker = Worker(concurrency=8, grace=5.0, lease_ttl=1.0)
    worker.handler("order")(order)
    await penstock.run_worker(worker)
    run = await client.submit("order", max_attempts=3)
    assert await asyncio.to_thread(began.wait, WAIT_S)
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == "second"
    end.set()
    assert await (await client.submit("order")).result(timeout=WAIT_S) == "second"  # the worker is well
    (entry,) = await journal(penstock, run.execution_id)
    assert entry["result"] == "second"


async def test_more_waits_than_one_request_takes(penstock: RunningPenstock, client: Client) -> None:
    worker = Worker(concurrency=20, grace=5.0)

    @worker.handler("part")
    async def part(n: int) -> int:
        return n

    @worker.handler("order")
    async def order(task: Task) -> list[int]:
        async def dry(n: int) -> int:
            await task.sleep("dry", n * HOUR, key=n)
            return await task.step("dried", echo, n, key=n)

        for n in range(150):
            task.state[f"name-{n % 90}"] = n
        parts = await task.parallel(*(task.child("part", "part", {"n": n}, key=n) for n in range(120)))
        dried = await task.parallel(*(dry(150 - n) for n in range(120)), task.wait_signal("go"))
        return [sum(parts), len(dried)]

    await penstock.run_worker(worker)
    run = await client.submit("order")

    async def asleep() -> int:
        page = await penstock.request("journal.read", {"execution_id": run.execution_id})
        return sum(each["kind"] == "sleep" for each in page["items"])

    await penstock.until(asleep, lambda count: count == 120)
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(31 * HOUR_MS)  # the soonest of them were the last ones to begin

    async def dried(n: int) -> bool:
        return f"step:dried#{n}" in await keys(penstock, run.execution_id)

    await penstock.until(partial(dried, 31), bool)
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(200 * HOUR_MS)
    await penstock.until(partial(dried, 150), bool)
    await penstock.wait_for(run, "suspended")
    await client.send_signal(run.execution_id, "go")
    assert await run.result(timeout=WAIT_S) == [sum(range(120)), 121]
