"""Branches that are given up by `task.first` or `task.parallel(failures="cancel")`: later runs leave them out."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from journals import journal_by_key, statuses
from penstock import Client, Fail, Retries, StepFailed, Task, Worker
from running_penstock import WAIT_S, RunningPenstock

HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000
RUNS = 3


@pytest.fixture
def worker() -> Worker:
    return Worker(concurrency=8, grace=5.0)


async def replays(task: Task) -> None:
    """Suspend, so that the handler runs `RUNS` times in all."""
    for n in range(RUNS - 1):
        await task.sleep("pause", HOUR, key=n)


async def finish(penstock: RunningPenstock, run: Any) -> Any:
    for n in range(RUNS - 1):
        key = f"sleep:pause#{n}"

        async def waits(key: str = key) -> bool:
            return (await statuses(penstock, run.execution_id)).get(key) == "waiting"

        await penstock.until(waits, bool, key)
        await penstock.wait_for(run, "suspended")
        penstock.move_clock(HOUR_MS)
    return await run.result(timeout=WAIT_S)


async def test_a_step_that_was_cut_off_begins_no_more(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    began: list[str] = []
    at_work = asyncio.Event()

    async def work() -> None:
        began.append("work")
        at_work.set()
        await asyncio.sleep(600)

    async def bad() -> None:
        await at_work.wait()
        raise Fail("no", "no")

    @worker.handler("order")
    async def order(task: Task) -> str:
        async def beside() -> None:
            await task.step("prepare", str)
            await task.step("work", work)

        try:
            await task.parallel(beside(), task.step("bad", bad), failures="cancel")
        except StepFailed as error:
            await replays(task)
            return error.name
        return "none failed"

    await penstock.run_worker(worker)
    run = await client.submit("order")
    assert await finish(penstock, run) == "bad"
    assert began == ["work"]
    ended = [event async for event in client.history(run.execution_id) if event.event == "completed"]
    assert "orphans" not in (ended[0].data or {})


@pytest.mark.parametrize("call", ["first", "parallel"])
async def test_what_waits_in_a_branch_that_was_given_up_is_canceled(
    penstock: RunningPenstock, client: Client, worker: Worker, call: str
) -> None:
    async def flaky() -> None:
        raise ConnectionError("not yet")

    async def bad(execution_id: str) -> None:
        waits = {"signal:go": "waiting", "step:flaky": "retry"}
        await penstock.until(
            lambda: statuses(penstock, execution_id), lambda seen: waits.items() <= seen.items()
        )
        raise Fail("no", "no")

    @worker.handler("order")
    async def order(task: Task) -> str:
        async def beside() -> None:
            await task.parallel(
                task.wait_signal("go"), task.step("flaky", flaky, retry=Retries(2, backoff=600.0))
            )

        fails = task.step("bad", bad, task.execution_id)
        try:
            if call == "first":
                await task.first("race", beside=beside(), bad=fails)
            else:
                await task.parallel(beside(), fails, failures="cancel")
        except StepFailed as error:
            await replays(task)
            return error.name
        return "none failed"

    await penstock.run_worker(worker)
    run = await client.submit("order")
    assert await finish(penstock, run) == "bad"
    seen = await statuses(penstock, run.execution_id)
    assert seen["signal:go"] == seen["step:flaky"] == "canceled"


async def test_a_branch_that_was_cut_between_two_calls_makes_no_further_one(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    began: list[str] = []
    prepared, gate = asyncio.Event(), asyncio.Event()

    async def bad() -> None:
        await prepared.wait()
        raise Fail("no", "no")

    @worker.handler("order")
    async def order(task: Task) -> str:
        async def beside() -> None:
            await task.step("prepare", str)
            prepared.set()
            await gate.wait()
            await task.step("work", began.append, "work")

        async def fails() -> None:
            try:
                await task.step("bad", bad)
            finally:
                # In later runs the other branch would have the time to go on.
                await asyncio.sleep(0.2 if gate.is_set() else 0)

        try:
            await task.parallel(beside(), fails(), failures="cancel")
        except StepFailed as error:
            gate.set()
            await replays(task)
            return error.name
        return "none failed"

    await penstock.run_worker(worker)
    run = await client.submit("order")
    assert await finish(penstock, run) == "bad"
    assert began == []


async def test_the_failure_that_was_first_is_told_in_every_run(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    """Both branches fail, the second one first: its failure is the one that later runs tell too."""
    told: list[str] = []
    late = asyncio.Event()

    async def fail(what: str, when: asyncio.Event | None = None) -> None:
        if when is not None:
            await when.wait()
        raise Fail(what, what)

    @worker.handler("order")
    async def order(task: Task) -> str:
        async def one() -> None:
            try:
                await task.step("one", fail, "one", late)
            except asyncio.CancelledError:
                raise Fail("stopped", "stopped") from None

        async def two() -> None:
            await asyncio.sleep(0.2)
            await task.step("two", fail, "two")

        try:
            await task.parallel(one(), two(), failures="cancel")
        except Fail as error:
            late.set()
            told.append(error.category)
            await replays(task)
        return told[-1]

    await penstock.run_worker(worker)
    run = await client.submit("order")
    assert await finish(penstock, run) == "two"
    assert told == ["two"] * RUNS


async def test_names_of_a_branch_that_was_given_up_need_keys_afterwards(
    penstock: RunningPenstock, client: Client, worker: Worker
) -> None:
    """Later runs leave its calls out, so the number of a second call of that name would not be the same."""
    began = asyncio.Event()

    async def bad() -> None:
        await began.wait()
        raise Fail("no", "no")

    async def work() -> None:
        began.set()
        await asyncio.sleep(600)

    @worker.handler("order")
    async def order(task: Task) -> None:
        async def beside() -> None:
            await task.step("work", work)

        try:
            await task.parallel(beside(), task.step("bad", bad), failures="cancel")
        except StepFailed:
            await task.step("work", str)

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "failed")
    told = (await client.get(run.execution_id)).failure or {}
    assert told["category"] == "step_key_needed" and "step:work" in told["reason"]


@pytest.mark.parametrize("call", ["first", "parallel"])
async def test_state_of_a_branch_that_was_given_up(
    penstock: RunningPenstock, client: Client, worker: Worker, call: str
) -> None:
    """What it has shown stays until the handler shows something else, and no run of the handler can read it."""
    seen: list[Any] = []
    at_work = asyncio.Event()

    async def work() -> None:
        at_work.set()
        await asyncio.sleep(600)

    async def bad() -> None:
        await at_work.wait()
        raise Fail("no", "no")

    @worker.handler("order")
    async def order(task: Task) -> None:
        async def beside() -> None:
            await task.step("prepare", str)
            task.state["stage"] = "beside"
            task.state["tries"] = 2
            await task.step("work", work)

        task.state["of"] = task.state["stage"] = "before"
        try:
            if call == "first":
                await task.first("race", beside=beside(), bad=task.step("bad", bad))
            else:
                await task.parallel(beside(), task.step("bad", bad), failures="cancel")
        except StepFailed:
            seen.append(dict(task.state))
        await task.sleep("pause", HOUR, key=0)
        task.state["stage"] = "after"
        await task.sleep("pause", HOUR, key=1)

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await finish(penstock, run)
    assert seen == [{"of": "before"}] * RUNS
    shown = await penstock.request("execution.query", {"execution_id": run.execution_id})
    values = {each["name"]: each["value"] for each in shown["items"]}
    assert values == {"of": "before", "stage": "after", "tries": 2}
    entries = await journal_by_key(penstock, run.execution_id)
    assert entries["state:stage"]["attempt"] == 3
