"""Compensations of durable functions that end while no handler runs: canceled in a wait, or out of time."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from flow_bodies import Graph
from journals import append, step
from penstock import Client, ExecutionCanceled, ExecutionFailed, Fail, Retries, Run, Task, Worker
from running_penstock import WAIT_S, RunningPenstock, fence

HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000
REGISTERED = {"key": "compensate:refund", "kind": "compensate", "name": "refund", "status": "done"}
MARKER = {"key": "compensating:", "kind": "compensating", "status": "started"}
NAP = {"key": "sleep:nap", "kind": "sleep", "name": "nap", "status": "waiting", "delay_ms": HOUR_MS}


class Orders:
    """A worker whose orders wait for an approval after they were charged. `done`: what was done, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.refusals = 0
        self.worker = Worker(concurrency=8, grace=5.0)
        self.worker.handler("order")(self.order)

    async def order(self, task: Task) -> str:
        task.compensate("release", self.do, "release")
        await task.step("reserve", self.do, "reserve")
        task.compensate("refund", self.refund, retry=Retries(3, backoff=600.0))
        await task.step("charge", self.do, "charge")
        await task.wait_signal("approved", timeout=timedelta(days=3))
        return await task.step("ship", self.do, "ship")

    async def do(self, what: str) -> str:
        self.done.append(what)
        return what

    async def refund(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionError("the bank is closed")
        self.done.append("refund")


@pytest.fixture
def orders() -> Orders:
    return Orders()


async def waiting(penstock: RunningPenstock, client: Client, **options: Any) -> Run:
    run = await client.submit("order", **options)
    await penstock.wait_for(run, "suspended")
    return run


async def test_a_cancel_in_the_midst_of_a_wait_undoes(
    penstock: RunningPenstock, client: Client, orders: Orders
) -> None:
    await penstock.run_worker(orders.worker)
    run = await waiting(penstock, client)
    assert await run.cancel("changed my mind") == "ready"
    with pytest.raises(ExecutionCanceled):
        await run.result(timeout=WAIT_S)
    assert orders.done == ["reserve", "charge", "refund", "release"]
    events = (await penstock.request("execution.history", {"execution_id": run.execution_id}))["items"]
    assert [each["reason"] for each in events if each["event"] == "canceled"] == ["changed my mind"]
    assert (await client.get(run.execution_id)).outcome == "canceled"


async def test_a_deadline_in_the_midst_of_a_wait_undoes(
    penstock: RunningPenstock, client: Client, orders: Orders
) -> None:
    await penstock.run_worker(orders.worker)
    run = await waiting(penstock, client, deadline_at=round(time.time() * 1000) + HOUR_MS)
    penstock.move_clock(HOUR_MS)
    with pytest.raises(ExecutionFailed) as caught:
        await run.result(timeout=WAIT_S)
    assert caught.value.category == "deadline_exceeded"
    assert orders.done == ["reserve", "charge", "refund", "release"]


async def test_a_member_of_a_cancelled_flow_undoes(
    penstock: RunningPenstock, client: Client, orders: Orders
) -> None:
    await penstock.run_worker(orders.worker)
    flow = await Graph.of(penstock, "a", kind="order")
    member = flow.ids["a"]
    await penstock.reaches(member, "suspended")
    answer = {"flow_id": flow.flow_id, "policy": "cancel_all", "wait": True, "wait_ms": 20_000}
    assert (await penstock.request("flow.cancel", answer))["result"] == "cancelled"
    assert (await penstock.get(member))["state"] == "canceled"
    assert orders.done == ["reserve", "charge", "refund", "release"]


async def test_a_compensation_waits_for_its_next_try(
    penstock: RunningPenstock, client: Client, orders: Orders
) -> None:
    orders.refusals = 1
    await penstock.run_worker(orders.worker)
    run = await waiting(penstock, client)
    await run.cancel()
    await penstock.reaches(run.execution_id, "suspended")
    assert await run.cancel("again") == "suspended"  # what was asked for is under way
    penstock.move_clock(HOUR_MS)
    with pytest.raises(ExecutionCanceled):
        await run.result(timeout=WAIT_S)
    assert orders.done == ["reserve", "charge", "refund", "release"]


async def test_a_fork_undoes_what_it_was_forked_with(
    penstock: RunningPenstock, client: Client, orders: Orders
) -> None:
    await penstock.run_worker(orders.worker)
    run = await waiting(penstock, client)
    fork = await client.journals.fork(run.execution_id, after_key="step:charge")
    await penstock.wait_for(fork, "suspended")
    await fork.cancel()
    with pytest.raises(ExecutionCanceled):
        await fork.result(timeout=WAIT_S)
    assert orders.done == ["reserve", "charge", "refund", "release"]


async def test_without_a_grace_nothing_is_undone(
    penstock: RunningPenstock, client: Client, orders: Orders
) -> None:
    await penstock.run_worker(orders.worker)
    run = await waiting(penstock, client)
    assert await run.cancel(grace_ms=0) == "canceled"
    assert orders.done == ["reserve", "charge"]


async def test_a_failure_before_the_compensations_are_known_again(
    penstock: RunningPenstock, client: Client
) -> None:
    """The last attempt fails early: another run comes as far as the journal, and undoes."""
    done: list[str] = []
    worker = Worker(concurrency=8, grace=5.0)
    broken = asyncio.Event()

    async def note(what: str) -> None:
        done.append(what)

    @worker.handler("order")
    async def order(task: Task) -> None:
        if broken.is_set():
            broken.clear()
            raise ConnectionError("the configuration cannot be read")
        task.compensate("refund", note, "refund")
        await task.step("charge", note, "charge")
        await task.sleep("cool-off", HOUR)
        raise Fail("no ship", "no_ship")

    await penstock.run_worker(worker)
    run = await client.submit("order")
    await penstock.wait_for(run, "suspended")
    broken.set()
    penstock.move_clock(HOUR_MS)
    with pytest.raises(ExecutionFailed) as caught:
        await run.result(timeout=WAIT_S)
    assert "configuration" in str(caught.value)
    assert done == ["charge", "refund"]


# -- what a worker sees, whatever it is written in ------------------------------------------------------


async def parked(penstock: RunningPenstock, **spec: Any) -> str:
    """Create an execution that has something to undo, and waits."""
    execution_id = await penstock.create(**spec)
    task = await penstock.begin()
    await append(penstock, task, step("charge"), REGISTERED)
    await penstock.request("lease.park", fence(task) | {"entries": [NAP]})
    return execution_id


async def fails(penstock: RunningPenstock, task: dict[str, Any], *, retryable: bool) -> str:
    about = {"reason": "r", "category": "c", "retryable": retryable}
    return (await penstock.request("lease.fail", fence(task) | about))["outcome"]


async def test_the_task_says_that_it_ends(penstock: RunningPenstock) -> None:
    execution_id = await parked(penstock)
    await penstock.request("execution.cancel", {"execution_id": execution_id, "reason": "why"})
    record = await penstock.get(execution_id)
    assert (record["state"], record["cancel_requested"]) == ("ready", True)
    told = await penstock.request("execution.explain", {"execution_id": execution_id})
    assert told["explanation"].startswith("It ends as canceled once its compensations have run. ")
    task = await penstock.begin()
    assert task["ending"] == {"category": "canceled", "reason": "why"}
    await append(penstock, task, MARKER)
    await fails(penstock, task, retryable=False)
    assert (await penstock.get(execution_id))["state"] == "canceled"


async def test_a_worker_that_dies_while_it_undoes_is_followed_by_another(penstock: RunningPenstock) -> None:
    execution_id = await parked(penstock)
    await penstock.request("execution.cancel", {"execution_id": execution_id})
    for _ in range(2):
        task = await penstock.begin()
        assert task["ending"]["category"] == "canceled"
        await append(penstock, task, MARKER)
        penstock.move_clock(60_000)  # the lease expires
        await penstock.reaches(execution_id, "ready", "retry_wait")
        penstock.move_clock(60_000)
        await penstock.reaches(execution_id, "ready")
    task = await penstock.begin()
    await fails(penstock, task, retryable=False)
    assert (await penstock.get(execution_id))["state"] == "canceled"


async def test_what_cannot_be_undone_ends_all_the_same(penstock: RunningPenstock) -> None:
    execution_id = await parked(penstock, max_reclaims=2)
    await penstock.request("execution.cancel", {"execution_id": execution_id})
    for _ in range(3):
        await penstock.reaches(execution_id, "ready")
        await fails(penstock, await penstock.begin(), retryable=True)
        penstock.move_clock(60_000)
    assert (await penstock.reaches(execution_id, "canceled"))["outcome"] == "canceled"


async def test_a_result_that_comes_after_a_cancel_is_undone(penstock: RunningPenstock) -> None:
    execution_id = await penstock.create()
    task = await penstock.begin()
    await append(penstock, task, step("charge"), REGISTERED)
    await penstock.request("execution.cancel", {"execution_id": execution_id, "reason": "why"})
    done = await penstock.request("lease.complete", fence(task) | {"result": 1})
    assert done["state"] == "ready"
    assert (await penstock.begin())["ending"]["reason"] == "why"


async def test_the_grace_ends_no_compensation(penstock: RunningPenstock) -> None:
    """When it is over, a worker that undoes keeps its lease; one that does not stop loses it to one that undoes."""
    execution_id = await penstock.create()
    task = await penstock.begin(lease_ttl_ms=600_000)
    await append(penstock, task, step("charge"), REGISTERED)
    await penstock.request("execution.cancel", {"execution_id": execution_id, "grace_ms": 1000})
    penstock.move_clock(1000)
    await penstock.reaches(execution_id, "ready")
    task = await penstock.begin(lease_ttl_ms=600_000)
    await append(penstock, task, MARKER)
    penstock.move_clock(60_000)
    backlog = await penstock.request("cancel.backlog", {})
    assert [each["execution_id"] for each in backlog["items"]] == [execution_id]
    assert (await penstock.get(execution_id))["state"] == "running"
    await penstock.request("execution.cancel", {"execution_id": execution_id, "grace_ms": 0})
    assert (await penstock.get(execution_id))["state"] == "canceled"
