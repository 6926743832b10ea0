"""Durable functions that wait: for signals, for children, and for several things at once."""

import asyncio
import gc
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from journals import journal_by_key, statuses
from penstock import (
    ChildFailed,
    Client,
    Fail,
    SignalTimeout,
    StepFailed,
    Task,
    Worker,
)
from running_penstock import WAIT_S, RunningPenstock

HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000


class Receipt(msgspec.Struct):
    order: str
    cents: int


@pytest.fixture
def worker() -> Worker:
    return Worker(concurrency=8, grace=5.0)


async def test_signals(penstock: RunningPenstock, client: Client, worker: Worker) -> None:
    @worker.handler("order")
    async def order(task: Task) -> list[Any]:
        await task.step("prepare", str)
        first = await task.wait_signal("approved")
        late = await task.wait_signal("paid", timeout=HOUR, default=None)
        try:
            await task.wait_signal("shipped", timeout=HOUR)
        except SignalTimeout as error:
            return [first.payload, first.name, late, error.name]
        return []

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    await client.send_signal(run.execution_id, "approved", {"by": "ann"})
    for key in ("signal:paid", "signal:shipped"):

        async def waits(key: str = key) -> bool:
            return (await statuses(penstock, run.execution_id)).get(key) == "waiting"

        await penstock.until(waits, bool, key)
        penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == [{"by": "ann"}, "approved", None, "shipped"]


async def test_a_signal_that_came_before_costs_no_suspension(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    @worker.handler("order")
    async def order(task: Task, execution: str | None = None) -> str:
        await task.create_waitpoint("go")
        await client.send_signal(task.execution_id, "go", "now", waitpoint_key="go")
        return (await task.wait_signal("go")).payload_as(str)

    await penstock.run_worker(worker)
    run = await client.submit("order")
    assert await run.result(timeout=WAIT_S) == "now"
    assert "suspended" not in [event.event async for event in client.history(run.execution_id)]


async def test_children(penstock: RunningPenstock, client: Client, worker: Worker) -> None:
    runs: list[str] = []

    @worker.handler("invoice")
    async def invoice(order: str) -> Receipt:
        runs.append(order)
        if order == "bad":
            raise Fail("no such order", "no_order")
        return Receipt(order, 7)

    @worker.handler("order")
    async def order(task: Task) -> list[Any]:
        receipt = await task.child("invoice", "invoice", {"order": "o1"}, type=Receipt)
        assert isinstance(receipt, Receipt)
        beside = await task.spawn("beside", "invoice", {"order": "o2"}, type=Receipt)
        try:
            await task.child("invoice", "invoice", {"order": "bad"})
        except ChildFailed as error:
            return [receipt, await beside.result(), error.category]
        return []

    await penstock.run_worker(worker)
    run = await client.submit("order")
    expected = [{"order": "o1", "cents": 7}, {"order": "o2", "cents": 7}, "no_order"]
    assert await run.result(timeout=WAIT_S) == expected
    assert sorted(runs) == ["bad", "o1", "o2"]
    entries = await journal_by_key(penstock, run.execution_id)
    assert list(entries) == ["child:invoice", "child:beside", "child:invoice@2"]


async def test_parallel_runs_steps_and_waits_together(
    penstock: RunningPenstock, client: Client, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    async def pack(item: str) -> str:
        ran.append(item)
        return item.upper()

    @worker.handler("order")
    async def order(task: Task) -> Any:
        async def ship() -> str:
            await task.sleep("drying", 2 * HOUR)
            return await task.step("ship", pack, "ship")

        packed = await task.parallel(*(task.step("pack", pack, item, key=item) for item in "abc"))
        shipped, signal, _ = await task.parallel(
            ship(), task.wait_signal("paid"), task.sleep("cool-off", HOUR)
        )
        return [packed, shipped, signal.payload]

    await penstock.run_worker(worker)
    run = await client.submit("order")
    record = await penstock.wait_for(run, "suspended")
    assert record.reason == "waits"
    penstock.move_clock(2 * HOUR_MS)
    await penstock.until(
        partial(statuses, penstock, run.execution_id), lambda seen: seen.get("step:ship") == "done"
    )
    await penstock.wait_for(run, "suspended")
    await client.send_signal(run.execution_id, "paid", 5)
    assert await run.result(timeout=WAIT_S) == [["A", "B", "C"], "SHIP", 5]
    assert sorted(ran) == ["a", "b", "c", "ship"]
    gc.collect()  # asyncio logs a task's unheard exception when the task is deleted
    assert "never retrieved" not in caplog.text


async def test_a_parallel_of_waits_is_woken_once(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    runs: list[int] = []

    @worker.handler("double")
    async def double(n: int) -> int:
        return 2 * n

    @worker.handler("import")
    async def import_all(task: Task) -> int:
        runs.append(1)
        parts = await task.parallel(*(task.child("part", "double", {"n": n}, key=n) for n in range(20)))
        return sum(parts)

    await penstock.run_worker(worker)
    run = await client.submit("import")
    assert await run.result(timeout=WAIT_S) == 380
    assert len(runs) == 2


async def test_parallel_tells_the_first_failure_by_position(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    async def fail(what: str) -> None:
        raise Fail(what, what)

    @worker.handler("order")
    async def order(task: Task, failures: Any) -> list[str]:
        try:
            await task.parallel(
                task.sleep("long", HOUR),
                task.step("one", fail, "one"),
                task.step("two", fail, "two"),
                failures=failures,
            )
        except StepFailed as error:
            return [error.name]
        return []

    await penstock.run_worker(worker)
    run = await client.submit("order", {"failures": "cancel"})
    assert await run.result(timeout=WAIT_S) == ["one"]
    assert (await statuses(penstock, run.execution_id))["sleep:long"] == "canceled"
    run = await client.submit("order", {"failures": "wait"})
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == ["one"]


async def test_first_has_the_same_winner_in_every_run(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    won: list[str] = []

    async def slow() -> str:
        await asyncio.sleep(60)
        return "slow"

    @worker.handler("order")
    async def order(task: Task) -> Any:
        winner = await task.first(
            "approval",
            signal=task.wait_signal("approved"),
            slow=task.step("slow", slow),
            time=task.sleep("t", 1),
        )
        won.append(winner.branch)
        await task.sleep("cool-off", HOUR)
        return winner.branch

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    # The signal comes after the race: it changes nothing any more.
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == "time"
    assert won == ["time", "time"]
    assert await statuses(penstock, run.execution_id) == {
        "signal:approved": "canceled",
        "step:slow": "canceled",
        "sleep:t": "done",
        "first:approval": "done",
        "sleep:cool-off": "done",
    }


async def test_a_signal_is_seen_while_a_step_runs(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    began = asyncio.Event()

    async def think() -> str:
        began.set()
        await asyncio.sleep(600)
        return "done"

    @worker.handler("agent")
    async def agent(task: Task) -> str:
        winner = await task.first("turn", answer=task.step("think", think), stop=task.wait_signal("stop"))
        return winner.branch

    await penstock.run_worker(worker)
    run = await client.submit("agent")
    await asyncio.wait_for(began.wait(), WAIT_S)
    await penstock.until(
        partial(statuses, penstock, run.execution_id), lambda seen: seen.get("signal:stop") == "waiting"
    )
    await client.send_signal(run.execution_id, "stop", waitpoint_key="stop")
    assert await run.result(timeout=WAIT_S) == "stop"
