"""Durable functions, as a user writes them, against the real services: each call, and what it gives when it runs again.

The worker runs here, in the test's event loop. What happens when workers are killed is in test_durable_crashes.py.
"""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from penstock import (
    ChildFailed,
    Client,
    ExecutionCanceled,
    ExecutionFailed,
    Fail,
    Retries,
    Retry,
    SignalTimeout,
    StepFailed,
    SyncTask,
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
async def client(penstock: RunningPenstock) -> AsyncIterator[Client]:
    async with await Client.connect(penstock.url, root=penstock.root) as client:
        yield client


@pytest.fixture
def worker() -> Worker:
    return Worker(concurrency=8, grace=5.0)


async def journal(penstock: RunningPenstock, execution_id: str) -> dict[str, dict[str, Any]]:
    """Return a journal's entries, in order, by their keys."""
    page = await penstock.request("journal.read", {"execution_id": execution_id})
    return {entry["key"]: entry for entry in page["items"]}


async def statuses(penstock: RunningPenstock, execution_id: str) -> dict[str, str]:
    return {key: entry["status"] for key, entry in (await journal(penstock, execution_id)).items()}


async def failure(client: Client, execution_id: str) -> tuple[str | None, str | None]:
    record = await client.get(execution_id)
    return record.failure_category, record.failure_reason


async def test_steps_run_once_and_come_back_as_their_type(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    ran: list[str] = []
    seen: list[Receipt] = []

    async def load(order: str) -> Receipt:
        ran.append("load")
        return Receipt(order, 2**60)

    def count(receipt: Receipt, *, more: int) -> int:
        ran.append(threading.current_thread().name.partition("_")[0])
        return receipt.cents + more

    @worker.handler("order")
    async def order(task: Task, order: str) -> int:
        receipt = await task.step("load", load, order)
        seen.append(receipt)
        cents = await task.step("count", partial(count, more=1), receipt)
        await task.sleep("cool-off", HOUR)
        return cents

    await penstock.run_worker(worker)
    run = await client.submit("order", {"order": "o1"})
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == 2**60 + 1
    assert ran == ["load", "penstock-step"]
    assert seen == [Receipt("o1", 2**60)] * 2
    assert await statuses(penstock, run.execution_id) == {
        "step:load": "done",
        "step:count": "done",
        "sleep:cool-off": "done",
    }
    assert (await client.get(run.execution_id)).attempt_index == 1


async def test_a_step_is_tried_again_in_memory_and_after_a_suspension(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    tries: list[str] = []

    async def soon() -> str:
        tries.append("soon")
        if tries.count("soon") < 3:
            raise ConnectionError("not yet")
        return "there"

    async def later() -> str:
        tries.append("later")
        if tries.count("later") < 2:
            raise Retry(after=HOUR)
        return "at last"

    @worker.handler("order")
    async def order(task: Task) -> list[str]:
        return [
            await task.step("soon", soon, retry=Retries(3, backoff=0.01)),
            await task.step("later", later),
        ]

    await penstock.run_worker(worker)
    run = await client.submit("order")
    record = await penstock.wait_for(run, "suspended")
    assert record.attempt_index == 1
    entry = (await journal(penstock, run.execution_id))["step:later"]
    assert (entry["status"], entry.get("attempt", 1)) == ("retry", 1)
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == ["there", "at last"]
    assert tries == ["soon"] * 3 + ["later"] * 2
    record = await client.get(run.execution_id)
    assert record.attempt_index == 1  # tries of steps are none of the execution's
    entry = (await journal(penstock, run.execution_id))["step:later"]
    assert (entry["status"], entry["attempt"]) == ("done", 2)


async def test_a_step_that_fails_for_good_fails_the_same_way_in_every_run(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    tried: list[int] = []
    told: list[tuple[str, str, str]] = []

    async def charge(cents: int) -> None:
        tried.append(cents)
        raise Fail("the card was declined", "declined")

    @worker.handler("order")
    async def order(task: Task) -> str:
        try:
            await task.step("charge", charge, 5)
        except StepFailed as error:
            told.append((error.name, error.category, error.error_reason))
        await task.sleep("wait", HOUR)
        await task.step("charge", charge, 7)
        return "never"

    await penstock.run_worker(worker)
    run = await client.submit("order", max_attempts=9)
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    with pytest.raises(ExecutionFailed) as caught:
        await run.result(timeout=WAIT_S)
    assert caught.value.category == "declined"
    assert tried == [5, 7]
    assert told == [("charge", "declined", "the card was declined")] * 2
    # An uncaught StepFailed is final: another attempt would find the same journal.
    assert (await client.get(run.execution_id)).attempt_index == 1
    assert await statuses(penstock, run.execution_id) == {
        "step:charge": "failed",
        "sleep:wait": "done",
        "step:charge@2": "failed",
    }


async def test_what_cannot_be_journaled_fails_and_names_the_step(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    async def make(what: str) -> Any:
        return object() if what == "object" else "x" * 3_000_000

    @worker.handler("order")
    async def order(task: Task) -> list[str]:
        told: list[str] = []
        for what in ("object", "huge"):
            try:
                await task.step("make", make, what, key=what)
            except StepFailed as error:
                assert error.category == "invalid_result"
                told.append(error.key)
        return told

    await penstock.run_worker(worker)
    run = await client.submit("order")
    assert await run.result(timeout=WAIT_S) == ["step:make#object", "step:make#huge"]


async def test_what_cannot_work_is_refused_before_anything_runs(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    ran: list[str] = []

    async def work(what: str) -> str:
        ran.append(what)
        return what

    async def nest(task: Task) -> str:
        return await task.step("inner", work, "inner")

    @worker.handler("nested")
    async def nested(task: Task) -> str:
        return await task.step("outer", nest, task)

    @worker.handler("side-by-side")
    async def side_by_side(task: Task) -> Any:
        return await task.parallel(task.step("pack", work, "a"), task.step("pack", work, "b"))

    @worker.handler("branches")
    async def branches(task: Task) -> Any:
        async def branch(what: str) -> str:
            await asyncio.sleep(0)
            return await task.step("pack", work, what)

        return await task.parallel(branch("a"), branch("b"))

    @worker.handler("called")
    async def called(task: Task) -> Any:
        return await task.step("pack", work("never"))  # pyright: ignore

    await penstock.run_worker(worker)
    for kind, category in [
        ("nested", "nested_step"),
        ("side-by-side", "step_key_needed"),
        ("branches", "step_key_needed"),
        ("called", "type_error"),
    ]:
        run = await client.submit(kind)
        with pytest.raises(ExecutionFailed) as caught:
            await run.result(timeout=WAIT_S)
        assert caught.value.category == category, kind
    assert ran in ([], ["a"])  # of the branches, the first one was right when it called


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
    entries = await journal(penstock, run.execution_id)
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


async def test_values_that_are_the_same_in_every_run(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    seen: list[Any] = []

    @worker.handler("order")
    async def order(task: Task) -> None:
        now = await task.now()
        seen.append((now, await task.now(), task.uuid("charge"), task.random("dice").random()))
        await task.sleep("cool-off", HOUR)

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) is None
    assert len(seen) == 2 and seen[0] == seen[1]
    assert abs(datetime.now(UTC) - seen[0][0]) < timedelta(minutes=5)


async def test_state_is_read_without_a_worker(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    @worker.handler("order")
    async def order(task: Task) -> dict[str, Any]:
        task.state["stage"] = "packing"
        task.state["count"] = 1
        await task.sleep("one", HOUR)
        task.state["count"] = task.state["count"] + 1
        await task.sleep("two", HOUR)
        return dict(task.state)

    async def state() -> dict[str, Any]:
        asked = await penstock.request("execution.query", {"execution_id": run.execution_id})
        return {item["name"]: item["value"] for item in asked["items"]}

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    assert await state() == {"stage": "packing", "count": 1}
    penstock.move_clock(HOUR_MS)
    await penstock.until(state, lambda seen: seen == {"stage": "packing", "count": 2})
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == {"stage": "packing", "count": 2}


async def test_compensations_run_in_reverse_when_the_execution_fails(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    done: list[str] = []

    async def do(what: str) -> str:
        done.append(what)
        if what == "ship":
            raise Fail("no ship", "no_ship")
        return what

    @worker.handler("order")
    async def order(task: Task) -> None:
        task.compensate("refund", do, "refund")
        await task.step("charge", do, "charge")
        task.compensate("release", do, "release")
        await task.sleep("cool-off", HOUR)
        await task.step("ship", do, "ship")

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    with pytest.raises(ExecutionFailed) as caught:
        await run.result(timeout=WAIT_S)
    assert caught.value.category == "no_ship"
    assert done == ["charge", "ship", "release", "refund"]


async def test_compensations_run_after_the_last_attempt_only(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    done: list[str] = []

    async def do(what: str) -> None:
        done.append(what)

    @worker.handler("order")
    async def order(task: Task) -> None:
        task.compensate("undo", do, "undo")
        done.append("ran")
        raise ConnectionError("outside a step")

    await penstock.run_worker(worker)
    run = await client.submit("order", max_attempts=3, backoff={"kind": "fixed", "delay_ms": 0})
    with pytest.raises(ExecutionFailed):
        await run.result(timeout=WAIT_S)
    assert done == ["ran", "ran", "ran", "undo"]


async def test_compensations_run_when_a_running_execution_is_canceled(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    began = asyncio.Event()
    done: list[str] = []

    async def undo() -> None:
        done.append("undo")

    async def long() -> None:
        began.set()
        await asyncio.sleep(600)

    @worker.handler("order")
    async def order(task: Task) -> None:
        task.compensate("undo", undo)
        await task.step("long", long)

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await asyncio.wait_for(began.wait(), WAIT_S)
    await client.cancel(run.execution_id)
    with pytest.raises(ExecutionCanceled):
        await run.result(timeout=WAIT_S)
    assert done == ["undo"]


async def test_an_endless_function_goes_on_in_the_next_execution(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    async def add(n: int) -> int:
        return n + 1

    @worker.handler("loop")
    async def loop(task: Task, n: int) -> int:
        n = await task.step("add", add, n)
        if n < 3:
            await task.continue_as({"n": n})
        return n

    await penstock.run_worker(worker)
    run = await client.submit("loop", {"n": 0})
    record = await penstock.wait_for(run, "completed")
    record = await penstock.wait_for(record.continued_by or "", "completed")
    record = await penstock.wait_for(record.continued_by or "", "completed")
    assert record.result == 3 and record.continued_by is None


async def test_a_sync_handler_blocks(penstock: RunningPenstock, client: Client, worker: Worker) -> None:
    done: list[str] = []

    def pack(item: str) -> str:
        done.append(item)
        return item.upper()

    @worker.handler("order")
    def order(task: SyncTask) -> Any:
        one = task.step("one", pack, "one")
        many = task.parallel(*(task.aio.step("pack", pack, item, key=item) for item in "ab"))
        task.sleep("cool-off", HOUR)
        return [one, *many]

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == ["ONE", "A", "B"]
    assert sorted(done) == ["a", "b", "one"]


async def test_a_long_journal_comes_in_pages(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    ran: list[int] = []

    async def work(n: int) -> str:
        ran.append(n)
        return str(n) * 1000

    @worker.handler("order")
    async def order(task: Task) -> int:
        for start in range(0, 500, 100):
            await task.parallel(*(task.step("work", work, n, key=n) for n in range(start, start + 100)))
        await task.sleep("cool-off", HOUR)
        return len(ran)

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == 500
    assert sorted(ran) == list(range(500))


async def test_changed_code_reuses_reruns_or_waits_for_an_operator(
    penstock: RunningPenstock, client: Client
) -> None:
    ran: list[str] = []

    async def work(what: str) -> str:
        ran.append(what)
        return what

    def version_of(suffix: str) -> Worker:
        worker = Worker(concurrency=8, grace=5.0)

        @worker.handler("order", version=suffix)
        async def order(task: Task, on_change: Any) -> list[Any]:
            done = await task.step("work", work, "v" + suffix, on_change=on_change)
            await task.sleep("deploy", HOUR)
            return [done, task.began("2")]

        return worker

    old = await penstock.run_worker(version_of("1"))
    runs = {each: await client.submit("order", {"on_change": each}) for each in ("reuse", "rerun", "fail")}
    for run in runs.values():
        await penstock.wait_for(run, "suspended")
    old.stop()
    await penstock.run_worker(version_of("2"))
    penstock.move_clock(HOUR_MS)
    assert await runs["reuse"].result(timeout=WAIT_S) == ["v1", False]
    assert await runs["rerun"].result(timeout=WAIT_S) == ["v2", False]
    record = await penstock.until(
        lambda: client.get(runs["fail"].execution_id), lambda record: record.reason == "operator"
    )
    assert record.state == "suspended" and record.attempt_index == 1
    assert ran == ["v1", "v1", "v1", "v2"]
