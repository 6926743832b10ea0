"""Durable functions, as a user writes them, against the real services: each call, and what it gives when it runs again.

The worker runs here, in the test's event loop. Signals, children and parallel calls are in test_durable_waits.py,
killed workers in test_durable_crashes.py.
"""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from journals import journal_by_key, statuses
from penstock import (
    Client,
    ExecutionCanceled,
    ExecutionFailed,
    Fail,
    Retries,
    Retry,
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
def worker() -> Worker:
    return Worker(concurrency=8, grace=5.0)


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
    entry = (await journal_by_key(penstock, run.execution_id))["step:later"]
    assert (entry["status"], entry.get("attempt", 1)) == ("retry", 1)
    penstock.move_clock(HOUR_MS)
    assert await run.result(timeout=WAIT_S) == ["there", "at last"]
    assert tries == ["soon"] * 3 + ["later"] * 2
    record = await client.get(run.execution_id)
    assert record.attempt_index == 1  # tries of steps are none of the execution's
    entry = (await journal_by_key(penstock, run.execution_id))["step:later"]
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
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    wrong = {
        "object": object(),
        "huge": "x" * 3_000_000,
        "deep": deep,
        "cyclic": cyclic,
        "surrogate": "\udcff",
        "key": {1.5: object()},
    }

    async def make(what: str) -> Any:
        return wrong[what]

    async def mistyped() -> int:
        return "one"  # pyright: ignore[reportReturnType]

    @worker.handler("order")
    async def order(task: Task) -> list[str]:
        told: list[str] = []
        works = [task.step("make", make, what, key=what) for what in wrong]
        for work in (*works, task.step("mistyped", mistyped)):
            try:
                await work
            except StepFailed as error:
                assert error.category == "invalid_result" and error.key in str(error)
                told.append(error.key)
        return told

    await penstock.run_worker(worker)
    run = await client.submit("order")
    keys = [*(f"step:make#{what}" for what in wrong), "step:mistyped"]
    assert await run.result(timeout=WAIT_S) == keys
    assert await statuses(penstock, run.execution_id) == dict.fromkeys(keys, "failed")


async def test_a_step_may_raise_what_has_no_text_and_no_name(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("it has no text")

        def __reduce__(self) -> str:
            raise TypeError("it cannot be pickled")

    strange = [
        Mute(),
        type("ß" * 300, (Exception,), {})(),
        ExceptionGroup("two", [Mute(), OSError("\udcff")]),
    ]

    async def fail(which: int) -> None:
        raise strange[which]

    @worker.handler("order")
    async def order(task: Task) -> list[str]:
        told: list[str] = []
        for which in range(len(strange)):
            try:
                await task.step("fail", fail, which, key=which, retry=Retries(1))
            except StepFailed as error:
                told.append(f"{error.key} {error.category}")
        return told

    await penstock.run_worker(worker)
    run = await client.submit("order")
    told = ["step:fail#0 mute", "step:fail#1 error", "step:fail#2 exception_group"]
    assert await run.result(timeout=WAIT_S) == told


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
