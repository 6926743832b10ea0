"""The worker registry (contract §3) over NATS, how the SDK's worker registers in it, and that worker's hooks."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from penstock import Client, ExecutionFailed, Task, Worker
from penstock.worker._loop import LoopWatch
from running_penstock import WAIT_S, RunningPenstock, fence


async def workers(penstock: RunningPenstock, **filters: Any) -> dict[str, dict[str, Any]]:
    page = await penstock.request("worker.list", filters)
    found = list(page["items"])
    while page["cursor"] is not None:
        page = await penstock.request("worker.list", {**filters, "cursor": page["cursor"]})
        found += page["items"]
    assert [each["worker_id"] for each in found] == sorted(each["worker_id"] for each in found)
    return {each["worker_id"]: each for each in found}


async def audit(penstock: RunningPenstock, count: int, heard: Any) -> list[tuple[str, str]]:
    events = [msgspec.json.decode((await heard.next_msg(timeout=WAIT_S)).data) for _ in range(count)]
    return [(event["event"], event["data"]["worker_id"]) for event in events]


class TestVerbs:
    async def test_register_and_list(self, penstock: RunningPenstock) -> None:
        body = {"worker_id": "w1", "lanes": ["b", "a"], "capabilities": ["gpu"], "version": "1.2"}
        reply = await penstock.request("worker.register", body)
        assert reply["status"] == "active"
        listed = (await workers(penstock))["w1"]
        assert listed == {
            "worker_id": "w1",
            "lanes": ["a", "b"],
            "capabilities": ["gpu"],
            "kinds": None,
            "version": "1.2",
            "status": "active",
            "heartbeat_ms": 10_000,
            "registered_at": reply["registered_at"],
            "seen_at": reply["registered_at"],
            "held": 0,
            "slots": None,
            "loop_lag_ms": None,
            "holds": None,
        }

    async def test_a_heartbeat_tells_slots_lag_and_what_is_held(self, penstock: RunningPenstock) -> None:
        holding = {"execution_id": await penstock.create(), "kind": "test.job", "since": 5}
        told = {"slots": 8, "loop_lag_ms": 41_000, "holds": [holding]}
        await penstock.request("worker.heartbeat", {"worker_id": "w1", **told})
        listed = (await workers(penstock))["w1"]
        assert {name: listed[name] for name in told} == told
        await penstock.request("worker.heartbeat", {"worker_id": "w1", "slots": 8, "holds": []})
        listed = (await workers(penstock))["w1"]
        assert (listed["loop_lag_ms"], listed["holds"]) == (None, [])

    async def test_kinds_are_told_at_registration_and_forgotten_after_a_month(
        self, penstock: RunningPenstock
    ) -> None:
        schema = {"type": "object", "properties": {"to": {"type": "string", "default": ""}}, "maximum": 2**60}
        schemas = {"mail.send": {"input": schema, "description": "Sends a mail."}, "a": {}, "b": {}}
        await penstock.request("worker.register", {"worker_id": "w1", "lanes": ["mail"], "schemas": schemas})
        page = await penstock.request("kind.list", {"limit": 2})
        assert [each["kind"] for each in page["items"]] == ["a", "b"]
        (mail,) = (await penstock.request("kind.list", {"cursor": page["cursor"]}))["items"]
        assert (mail["input"], mail["description"], mail["lanes"]) == (schema, "Sends a mail.", ["mail"])
        assert (await penstock.request("kind.list", {"kind": "mail.send"}))["items"] == [mail]
        assert (await penstock.request("kind.list", {"kind": "mail"}))["items"] == []
        long = {"mail.send": {"input": {"description": "x" * 70_000}}}
        refused = await penstock.refused("worker.register", {"worker_id": "w2", "schemas": long})
        assert refused.code == "invalid_request" and "w2" not in await workers(penstock)
        penstock.move_clock(31 * 86_400_000)
        await penstock.until(
            lambda: penstock.request("kind.list"), lambda found: not found["items"], "no kinds"
        )

    async def test_a_lost_lease_tells_how_long_the_loop_was_blocked(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create(max_reclaims=1)
        task = await penstock.begin()
        await penstock.request("lease.stalled", fence(task) | {"blocked_ms": 20_000})
        await penstock.request("lease.renew", fence(task))  # the loop turns again
        await penstock.loses_its_lease(execution_id)
        task = await penstock.begin()
        stalled = await penstock.request("lease.stalled", fence(task) | {"blocked_ms": 20_000})
        assert stalled == {"state": "running"}
        penstock.move_clock(60_000)
        await penstock.reaches(execution_id, "failed")
        events = (await penstock.request("execution.history", {"execution_id": execution_id}))["items"]
        reclaimed, failed = events[-3]["data"], events[-1]["data"]
        assert events[-3]["event"] == "reclaimed" and "loop_blocked_ms" not in reclaimed
        assert failed["loop_blocked_ms"] >= 80_000
        assert (
            await penstock.refused("lease.stalled", fence(task) | {"blocked_ms": 1})
        ).code == "execution_not_active"

    async def test_held_leases_are_counted(self, penstock: RunningPenstock) -> None:
        await penstock.request("worker.register", {"worker_id": "w1"})
        for _ in range(3):
            await penstock.create()
        tasks = await penstock.take(2)
        tasks += await penstock.take(1, start=True)
        assert (await workers(penstock))["w1"]["held"] == 3
        await penstock.request("lease.release", fence(tasks[0]))
        await penstock.request("lease.complete", fence(tasks[2]))
        assert (await workers(penstock))["w1"]["held"] == 1
        # The last lease is lost and no longer counted.
        penstock.move_clock(31_000)
        await penstock.reaches(tasks[1]["execution_id"], "ready")
        assert (await workers(penstock))["w1"]["held"] == 0

    async def test_filters_and_pages(self, nats_url: str, valkey_url: str) -> None:
        async with RunningPenstock.open(nats_url, valkey_url, partitions=3) as penstock:
            for n in range(12):
                lanes = ["even" if n % 2 == 0 else "odd", "all"]
                await penstock.request("worker.register", {"worker_id": f"w{n:02}", "lanes": lanes})
            await penstock.request("worker.drain", {"worker_id": "w04"})
            assert list(await workers(penstock, limit=5)) == [f"w{n:02}" for n in range(12)]
            assert list(await workers(penstock, lane="even", limit=2)) == [
                f"w{n:02}" for n in range(0, 12, 2)
            ]
            assert list(await workers(penstock, status="draining")) == ["w04"]

    async def test_one_that_falls_silent_is_lost_and_then_forgotten(self, penstock: RunningPenstock) -> None:
        heard = await penstock.nats.subscribe(f"{penstock.root}.audit.*.worker.*.*")
        await penstock.request("worker.register", {"worker_id": "w1"})
        await penstock.request("worker.register", {"worker_id": "w2"})
        penstock.move_clock(20_000)
        await penstock.request("worker.heartbeat", {"worker_id": "w2"})
        penstock.move_clock(15_000)
        found = await penstock.until(
            lambda: workers(penstock), lambda found: found["w1"]["status"] == "lost", "a lost worker"
        )
        assert found["w2"]["status"] == "active"
        # A heartbeat makes the lost worker active again.
        reply = await penstock.request("worker.heartbeat", {"worker_id": "w1"})
        assert reply["status"] == "active"
        told = await audit(penstock, 4, heard)  # in order per worker: w1 and w2 may be in two partitions
        assert [event for event, worker in told if worker == "w1"] == ["registered", "lost", "registered"]
        assert [event for event, worker in told if worker == "w2"] == ["registered"]
        penstock.move_clock(31_000)
        await penstock.until(lambda: workers(penstock, status="lost"), lambda found: len(found) == 2)
        penstock.move_clock(601_000)
        await penstock.until(lambda: workers(penstock), lambda found: not found, "no worker")

    async def test_a_heartbeat_of_a_stranger_registers_it(self, penstock: RunningPenstock) -> None:
        body = {"worker_id": "w1", "lanes": ["l"], "capabilities": ["a"]}
        await penstock.request("worker.heartbeat", body)
        assert (await workers(penstock))["w1"]["capabilities"] == ["a"]
        reply = await penstock.request("worker.heartbeat", {**body, "status": "stopped"})
        assert reply["status"] == "stopped"
        assert await workers(penstock) == {}

    async def test_drain(self, penstock: RunningPenstock) -> None:
        pushed = await penstock.nats.subscribe(f"{penstock.root}.worker.w1")
        await penstock.request("worker.register", {"worker_id": "w1"})
        assert (await penstock.request("worker.drain", {"worker_id": "w1"}))["status"] == "draining"
        assert msgspec.json.decode((await pushed.next_msg(timeout=WAIT_S)).data) == {"type": "drain"}
        # If the push is lost, the next heartbeat tells the worker.
        assert (await penstock.request("worker.heartbeat", {"worker_id": "w1"}))["status"] == "draining"
        assert (await penstock.request("worker.register", {"worker_id": "w1"}))["status"] == "active"

    async def test_bad_input(self, penstock: RunningPenstock) -> None:
        for verb, body, field in (
            ("worker.drain", {"worker_id": "nobody"}, "worker_id"),
            ("worker.register", {"worker_id": "a b"}, "worker_id"),
            ("worker.register", {"worker_id": "w", "lanes": []}, "lanes"),
            ("worker.register", {"worker_id": "w", "capabilities": ["c"] * 10_000}, "capabilities"),
            ("worker.heartbeat", {"worker_id": "w", "status": "odd"}, "status"),
        ):
            error = await penstock.refused(verb, body)
            assert (error.code, error.detail.get("field")) == ("invalid_request", field), verb

    async def test_explain_knows_who_lacks_what(self, penstock: RunningPenstock) -> None:
        await penstock.request("worker.register", {"worker_id": "w1", "capabilities": ["cpu"]})
        execution_id = await penstock.create(capabilities=["gpu"])
        why = await penstock.request("execution.explain", {"execution_id": execution_id})
        assert why["waiting_for"]["kind"] == "capability"
        assert why["waiting_for"]["lacking"] == {"w1": ["gpu"]}


@pytest.fixture
def worker(penstock: RunningPenstock) -> Worker:
    return Worker(
        penstock.settings.nats_url, root=penstock.root, concurrency=4, grace=20.0,
        worker_id="sdk", capabilities=["gpu"], version="7",
    )  # fmt: skip


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator["asyncio.Task[None]"]:
    running = asyncio.create_task(worker.run(handle_signals=False))
    yield running
    worker.stop()
    await asyncio.wait_for(running, WAIT_S)


class TestSdk:
    async def test_it_registers_drains_and_says_goodbye(
        self, penstock: RunningPenstock, client: Client, worker: Worker
    ) -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        @worker.handler("slow")
        async def slow() -> str:
            begun.set()
            await go_on.wait()
            return "done"

        assert worker.health().status == "starting"
        async with working(worker) as running:
            found = await penstock.until(lambda: workers(penstock), lambda found: "sdk" in found)
            assert (found["sdk"]["version"], found["sdk"]["capabilities"]) == ("7", ["gpu"])
            run = await client.submit("slow")
            await asyncio.wait_for(begun.wait(), 20)
            health = worker.health()
            assert health.ok and (health.running, health.status) == (1, "working")
            assert (await workers(penstock))["sdk"]["held"] == 1
            await penstock.request("worker.drain", {"worker_id": "sdk"})
            await penstock.request("worker.drain", {"worker_id": "sdk"})
            await penstock.until(_health(worker), lambda health: health.status == "draining")
            # A draining worker finishes its tasks and takes no more.
            left = await client.submit("slow")
            go_on.set()
            assert await run.result(timeout=WAIT_S) == "done"
            await asyncio.wait_for(running, WAIT_S)
            assert worker.health().status == "stopped"
            assert (await left.get()).state == "ready"
            assert await workers(penstock) == {}

    async def test_middleware_wraps_every_handler(self, client: Client, worker: Worker) -> None:
        order: list[str] = []

        @worker.middleware
        async def outer(task: Task, call_next: Any) -> Any:
            order.append(f"outer {task.kind}")
            try:
                return await call_next(task)
            except ZeroDivisionError:
                return "mended"

        @worker.middleware
        async def inner(task: Task, call_next: Any) -> Any:
            order.append("inner")
            return {"wrapped": await call_next(task)}

        @worker.handler("plain")
        async def plain(n: int) -> int:
            return n

        @worker.handler("threaded")
        def threaded(n: int) -> int:
            return n

        @worker.handler("broken")
        async def broken() -> None:
            raise ZeroDivisionError

        @worker.handler("typed")
        async def typed(n: int) -> None: ...

        async with working(worker):
            assert await (await client.submit("plain", {"n": 1})).result(timeout=WAIT_S) == {"wrapped": 1}
            assert order == ["outer plain", "inner"]
            assert await (await client.submit("threaded", {"n": 2})).result(timeout=WAIT_S) == {"wrapped": 2}
            assert await (await client.submit("broken")).result(timeout=WAIT_S) == "mended"
            with pytest.raises(ExecutionFailed, match="invalid_input"):
                await (await client.submit("typed", {"n": "x"})).result(timeout=WAIT_S)

    async def test_what_is_set_up_is_torn_down(self, client: Client, worker: Worker) -> None:
        order: list[str] = []

        @worker.on_startup
        async def connect() -> None:
            order.append("startup")

        @worker.on_shutdown
        def disconnect() -> None:
            order.append("shutdown")

        @worker.lifespan
        @contextlib.asynccontextmanager
        async def pool() -> AsyncIterator[dict[str, int]]:
            order.append("enter")
            yield {"connections": 3}
            order.append("exit")

        @worker.handler("use")
        async def use(task: Task) -> int:
            order.append("task")
            return task.context["connections"]

        async with working(worker):
            assert await (await client.submit("use")).result(timeout=WAIT_S) == 3
        assert order == ["startup", "enter", "task", "exit", "shutdown"]
        with pytest.raises(ValueError, match="lifespan"):
            worker.lifespan(pool)

    async def test_a_startup_that_fails_stops_the_worker(self, worker: Worker) -> None:
        worker.handler("unused")(lambda: None)

        @worker.on_startup
        def broken() -> None:
            raise RuntimeError("no database")

        with pytest.raises(RuntimeError, match="no database"):
            await asyncio.wait_for(worker.run(handle_signals=False), 20)
        assert worker.health().status == "stopped"


def _health(worker: Worker) -> Any:
    async def look() -> Any:
        return worker.health()

    return look


async def test_a_worker_whose_loop_is_blocked_says_so(penstock: RunningPenstock) -> None:
    """The worker runs in a thread, with a loop of its own: a blocked loop here would block the services too."""
    worker = Worker(penstock.url, root=penstock.root, lease_ttl=1.0)
    let_go = threading.Event()

    @worker.handler("block")
    async def block(task: Task, size: int = 3) -> None:
        """Block everything.

        No other handler of this worker runs meanwhile.
        """
        let_go.wait(20)

    loops: list[asyncio.AbstractEventLoop] = []

    async def live() -> None:
        loops.append(asyncio.get_running_loop())
        await worker.run(handle_signals=False)

    execution_id = await penstock.create(kind="block", max_reclaims=0)
    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        await penstock.reaches(execution_id, "failed")
        events = (await penstock.request("execution.history", {"execution_id": execution_id}))["items"]
        assert events[-1]["data"]["loop_blocked_ms"] > 250
        let_go.set()
        info = await penstock.until(
            lambda: workers(penstock), lambda found: worker.worker_id in found, "its registration"
        )
        assert info[worker.worker_id]["slots"] == worker.concurrency
        (kind,) = (await penstock.request("kind.list"))["items"]
        assert (kind["kind"], kind["description"]) == ("block", "Block everything.")
        assert kind["input"]["$defs"]["Input"]["properties"] == {"size": {"type": "integer", "default": 3}}
    finally:
        let_go.set()
        loops[0].call_soon_threadsafe(worker.stop)
        await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()


async def test_the_watch_measures_and_tells_while_the_loop_is_blocked() -> None:
    told: list[int] = []
    heard = threading.Event()

    async def tell(blocked_ms: int) -> None:
        told.append(blocked_ms)
        heard.set()

    watch = LoopWatch(0.1, tell)
    watch.start()
    try:
        assert heard.wait(20)  # blocks this loop until the thread has told of it
        assert told[0] >= 100
        assert watch.longest_ms() >= 100
    finally:
        watch.stop()
