"""`penstock.testing.crash_everywhere`: it reaches each place of a journal, and finds what does not survive a crash."""

import itertools
from typing import Any

import pytest

from penstock import Fail, Retries, Task, Worker
from penstock.testing import crash_everywhere
from running_penstock import RunningPenstock


@pytest.fixture
def worker() -> Worker:
    return Worker(concurrency=8, grace=5.0)


async def echo(what: Any) -> Any:
    return what


async def test_every_kind_of_call_survives(penstock: RunningPenstock, worker: Worker) -> None:
    tries: dict[str, int] = {}

    async def flaky(execution: str) -> str:
        tries[execution] = tries.get(execution, 0) + 1
        if tries[execution] == 1:
            raise ConnectionError("not yet")
        return "there"

    @worker.handler("part")
    async def part(task: Task, n: int) -> int:
        await task.sleep("nap", 60)
        return n

    @worker.handler("order")
    async def order(task: Task) -> list[Any]:
        task.compensate("never", echo, 0)
        task.state["stage"] = "begun"
        spawned = await task.spawn("spawned", "part", {"n": 1})
        done = [await task.step("flaky", flaky, task.execution_id, retry=Retries(2, backoff=600.0))]
        done += await task.parallel(task.child("part", "part", {"n": 2}), task.step("echo", echo, 3))
        won = await task.first("race", long=task.sleep("long", 86_400), signal=task.wait_signal("go"))
        return [*done, won.branch, await spawned.result()]

    places = await crash_everywhere(penstock, worker, "order", signals={"go": 1})
    keys = {key for place in places for key in place.keys}
    assert keys >= {"step:flaky", "child:spawned", "child:part", "step:echo", "signal:go", "first:race"}
    assert {place.moment for place in places if place.verb == "lease.complete"} == {"before", "after"}


async def test_code_that_does_not_survive_is_found(penstock: RunningPenstock, worker: Worker) -> None:
    count = itertools.count()
    names: dict[str, int] = {}

    @worker.handler("order")
    async def order(task: Task) -> int:
        runs = names[task.execution_id] = names.get(task.execution_id, 0) + 1
        await task.step("work", echo, runs)
        return runs

    @worker.handler("twice")
    async def twice(task: Task) -> str:
        # A name that differs from run to run makes it another step each time.
        await task.step(f"work-{next(count)}", echo, 1)
        await task.step("last", echo, 1)
        return "done"

    with pytest.raises(AssertionError, match=r"crash after journal\.append step:work: ended as"):
        await crash_everywhere(penstock, worker, "order")
    with pytest.raises(AssertionError, match="ran, and it did not in the run without a crash"):
        await crash_everywhere(penstock, worker, "twice")


async def test_a_step_at_most_once(penstock: RunningPenstock, worker: Worker) -> None:
    """`once` gives up instead of doing it again, and the outcome says so: the test has to allow for that."""

    @worker.handler("order")
    async def order(task: Task) -> str:
        await task.step("charge", echo, 1, once=True)
        return "done"

    with pytest.raises(AssertionError, match="step_in_doubt"):
        await crash_everywhere(penstock, worker, "order")
    await crash_everywhere(penstock, worker, "order", outcome=lambda record: record.kind)


async def test_undoing_survives(penstock: RunningPenstock, worker: Worker) -> None:
    async def fail() -> None:
        raise Fail("no ship", "no_ship")

    @worker.handler("order")
    async def order(task: Task) -> None:
        for what in "ab":
            task.compensate("undo", echo, what, key=what)
            await task.step("do", echo, what, key=what)
        await task.step("ship", fail)

    places = await crash_everywhere(penstock, worker, "order")
    assert {"undo:undo#a", "undo:undo#b", "compensating:"} <= {key for each in places for key in each.keys}
