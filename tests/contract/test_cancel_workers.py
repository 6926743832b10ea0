"""Workers that are asked to stop: one that does, one that does not, and one that does not hear of it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from lifecycles import HOUR_MS, last, names, running
from penstock import Task, Worker
from proxies import Proxy
from running_penstock import WAIT_S, RunningPenstock, fence


class Handlers:
    """Handlers that tell when they have begun and how they ended."""

    def __init__(self) -> None:
        self.began, self.ended = asyncio.Event(), asyncio.Event()
        self.go_on = threading.Event()
        self._loop = asyncio.get_running_loop()

    def of(self, worker: Worker) -> Worker:
        worker.handler("test.heeds")(self.heeds)
        worker.handler("test.ignores")(self.ignores)
        worker.handler("test.deaf")(self.deaf)
        worker.handler("test.quick")(self.quick)
        return worker

    async def heeds(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def ignores(self) -> str:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.to_thread(self.go_on.wait, WAIT_S)
        self.ended.set()
        return "done all the same"

    def deaf(self, task: Task) -> str:
        self._loop.call_soon_threadsafe(self.began.set)
        self.go_on.wait(WAIT_S)
        self._loop.call_soon_threadsafe(self.ended.set)
        return "done all the same"

    async def quick(self) -> None:
        pass

    @asynccontextmanager
    async def serving(self, penstock: RunningPenstock, url: str, **settings: Any) -> AsyncIterator[Worker]:
        worker = self.of(Worker(url, root=penstock.root, worker_id="w1", grace=5.0, **settings))
        serving = asyncio.create_task(worker.run(handle_signals=False))
        await worker.ready.wait()
        try:
            yield worker
        finally:
            self.go_on.set()
            worker.stop()
            await asyncio.wait_for(serving, WAIT_S)


@pytest.fixture
async def handlers() -> Handlers:
    return Handlers()


async def begin(penstock: RunningPenstock, handlers: Handlers, kind: str) -> str:
    execution_id = await penstock.create(kind=kind, max_attempts=3)
    await asyncio.wait_for(handlers.began.wait(), WAIT_S)
    return execution_id


async def cancel(penstock: RunningPenstock, execution_id: str, grace_ms: int = HOUR_MS) -> None:
    body = {"execution_id": execution_id, "reason": "enough", "grace_ms": grace_ms}
    assert await penstock.request("execution.cancel", body) == {"state": "running"}


async def test_one_that_heeds_it_ends_within_the_grace(penstock: RunningPenstock, handlers: Handlers) -> None:
    async with handlers.serving(penstock, penstock.url):
        execution_id = await begin(penstock, handlers, "test.heeds")
        await cancel(penstock, execution_id)
        record = await penstock.reaches(execution_id, "canceled")
        assert handlers.ended.is_set()
    assert (record["outcome"], record["lease"], record["attempt_index"]) == ("canceled", None, 1)
    assert await names(penstock, execution_id) == [
        "created",
        "started",
        "cancel_requested",
        "canceled",
    ]
    event = await last(penstock, execution_id)
    assert (event["actor"], event["reason"]) == ("worker:w1", "enough")
    assert (await penstock.request("cancel.backlog"))["items"] == []


@pytest.mark.parametrize("kind", ["test.ignores", "test.deaf"])
async def test_one_that_ignores_it_loses_its_lease_after_the_grace(
    penstock: RunningPenstock, handlers: Handlers, kind: str
) -> None:
    """What the handler returns in the end changes nothing, and the worker goes on with other tasks."""
    async with handlers.serving(penstock, penstock.url, lease_ttl=600.0):
        execution_id = await begin(penstock, handlers, kind)
        await cancel(penstock, execution_id, grace_ms=30_000)
        penstock.move_clock(29_000)
        assert (await penstock.get(execution_id))["state"] == "running"
        penstock.move_clock(1_001)
        record = await penstock.reaches(execution_id, "canceled")
        assert not handlers.ended.is_set() and record["lease"] is None
        event = await last(penstock, execution_id)
        assert (event["actor"], event["reason"]) == ("cancel-reconciler", "enough")
        handlers.go_on.set()
        await asyncio.wait_for(handlers.ended.wait(), WAIT_S)
        await penstock.reaches(await penstock.create(kind="test.quick"), "completed")
    assert await penstock.get(execution_id) == record


async def test_one_that_was_away_hears_of_it_when_it_renews(
    penstock: RunningPenstock, handlers: Handlers
) -> None:
    """The push is lost, and nobody repeats it: the reconciler is gone too."""
    async with Proxy.before(penstock.url) as proxy:
        async with handlers.serving(penstock, proxy.url, lease_ttl=6.0):
            execution_id = await begin(penstock, handlers, "test.heeds")
            proxy.sever()
            await cancel(penstock, execution_id)
            await penstock.running["cancel-reconciler"].stop()
            assert not handlers.ended.is_set()
            proxy.cut = False
            await penstock.reaches(execution_id, "canceled")
            assert handlers.ended.is_set()
        await penstock.start_again("cancel-reconciler")
    event = await last(penstock, execution_id)
    assert (event["actor"], event["reason"]) == ("worker:w1", "enough")


async def test_the_push_is_repeated_ever_more_rarely_until_the_grace_ends(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    pushed = await penstock.nats.subscribe(f"{penstock.root}.worker.w1")
    await penstock.nats.flush()
    await cancel(penstock, task["execution_id"], grace_ms=17_000)
    expected = {"type": "cancel", "execution_id": task["execution_id"], "lease_id": task["lease_id"]}
    assert msgspec.json.decode((await pushed.next_msg(WAIT_S)).data) == expected
    pauses: list[int] = []
    for tries in range(1, 6):
        [item] = (await penstock.request("cancel.backlog"))["items"]
        assert (item["execution_id"], item["tries"]) == (task["execution_id"], tries)
        assert item["last_error"] == (None if tries == 1 else "worker w1 has not stopped yet")
        pauses.append(item["next_at"] - await penstock.clock.now())
        penstock.move_clock(pauses[-1] + 1)
        assert msgspec.json.decode((await pushed.next_msg(WAIT_S)).data) == expected
        await penstock.until(
            lambda: penstock.request("cancel.backlog"),
            lambda page, tries=tries: [item["tries"] for item in page["items"]] == [tries + 1] * (tries < 5),
            "the next try",
        )
    assert [round(pause, -3) for pause in pauses[:4]] == [1000, 2000, 4000, 8000]
    assert pauses[4] <= 2000
    assert (await penstock.get(task["execution_id"]))["state"] == "canceled"
    assert (await penstock.refused("lease.renew", fence(task))).code == "execution_not_active"
