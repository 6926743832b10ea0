"""A worker asks for work, drains, and survives servers that go away."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from nats.errors import NoRespondersError

from penstock import Worker, errors
from penstock.bus.connection import connect
from penstock.worker._outages import OutageLog
from scripted_services import DEADLINE_S, Running, Services
from servers import NatsServer, free_port


async def test_one_request_for_work_at_a_time(services: Services) -> None:
    running = Running(services, concurrency=4)
    go_on = asyncio.Event()

    @running.worker.handler("wait")
    async def wait() -> None:
        await go_on.wait()

    async with running:
        await services.until(lambda: services.parked)
        assert [most for _, most in services.parked] == [4]
        await services.give("wait")
        await services.until(lambda: services.parked)
        assert [most for _, most in services.parked] == [3]
        for _ in range(3):
            await services.until(lambda: services.parked)
            await services.give("wait")
        assert not services.parked  # the worker is full and does not ask
        go_on.set()
        await services.until(lambda: services.parked)


async def test_a_late_second_reply_is_not_lost(services: Services) -> None:
    running = Running(services, concurrency=1)
    done: list[int] = []

    @running.worker.handler("n")
    async def work(n: int) -> None:
        done.append(n)

    async with running:
        reply_to, _ = await services.until(lambda: services.parked and services.parked[0])
        services.parked.clear()
        for n in (1, 2, 3):
            tasks = [services.task("n", {"n": n})]
            await services.nats.publish(reply_to, msgspec.json.encode({"tasks": tasks}))
        await services.until(lambda: len(services.got("lease.complete")) == 3)
    assert sorted(done) == [1, 2, 3]


async def test_draining_lets_running_ones_finish_and_gives_the_rest_back(services: Services) -> None:
    running = Running(services, concurrency=1)
    began, go_on = asyncio.Event(), asyncio.Event()

    @running.worker.handler("slow")
    async def slow() -> None:
        began.set()
        await go_on.wait()

    async with running as worker:
        reply_to, _ = await services.until(lambda: services.parked and services.parked[0])
        tasks = [services.task("slow"), services.task("slow")]
        await services.nats.publish(reply_to, msgspec.json.encode({"tasks": tasks}))
        await asyncio.wait_for(began.wait(), DEADLINE_S)
        worker.stop()
        released = await services.outcome("lease.release")
        go_on.set()
        done = await services.outcome("lease.complete")
    assert (done.lease_id, released.lease_id) == ("lease1", "lease2")


async def test_after_the_grace_time_the_rest_is_left_to_expire(services: Services) -> None:
    running = Running(services, grace=0.05)
    began, ended = running.endless("endless")

    async with running:
        await services.give("endless")
        await asyncio.wait_for(began.wait(), DEADLINE_S)
    assert ended.is_set() and not services.seen


async def test_an_idle_worker_stops_at_once(services: Services) -> None:
    """Its parked request has no subscription any more, so a late grant finds no listener."""
    running = Running(services, park=60.0)
    async with running:
        reply_to, _ = await services.until(lambda: services.parked and services.parked[0])
    with pytest.raises(NoRespondersError):
        await services.nats.request(reply_to, b'{"tasks":[]}', timeout=DEADLINE_S)


async def test_no_work_is_said_once_and_so_is_its_end(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    away = errors.make("valkey_unavailable")
    services.scripts["work.next"] = lambda _: away if services.asked < 5 else None
    running = Running(services)

    @running.worker.handler("noop")
    async def noop() -> None: ...

    with caplog.at_level("INFO", "penstock.worker"):
        async with running:
            await services.give("noop")
            await services.outcome("lease.complete")
    assert caplog.text.count("no work, trying on: valkey_unavailable") == 1
    assert caplog.text.count("work is answered again") == 1


def test_outages_is_said_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outages = OutageLog()
    said: list[int] = []
    for second in range(100):
        monkeypatch.setattr(time, "monotonic", lambda now=second: float(now))
        outages.failed(errors.make("timeout"))
        if caplog.records:
            said.append(second)
            caplog.clear()
    assert said == [0, 5, 15, 35, 75]
    outages.recovered()
    outages.failed(errors.make("timeout"))
    assert len(caplog.records) == 1


async def test_a_request_that_can_never_succeed_stops_the_worker(services: Services) -> None:
    running = Running(services, lanes=["no such lane!"])
    with pytest.raises(errors.InvalidRequest, match="lanes"):
        async with running:
            await asyncio.wait_for(asyncio.shield(running.running), DEADLINE_S)


async def test_work_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    nats = await connect(server.url, "services")
    services = Services(server.url, nats, "restarted")
    await services.start()
    running = Running(services, park=60.0)
    go_on = asyncio.Event()

    @running.worker.handler("slow")
    async def slow() -> None:
        await go_on.wait()

    @running.worker.handler("noop")
    async def noop() -> None: ...

    try:
        async with running:
            await services.give("slow")
            await services.until(lambda: services.asked == 2)
            server.kill()
            go_on.set()  # the outcome is sent while there is no server
            services.parked.clear()
            server.start()
            await services.outcome("lease.complete")
            await services.until(lambda: services.parked)  # it asks again, long before a minute is over
            await services.give("noop")
            await services.until(lambda: len(services.got("lease.complete")) == 2)
        await services.stop()
        await nats.close()
    finally:
        server.kill()


async def test_a_connection_closed_for_good_ends_the_worker(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    try:
        nats = await connect(server.url, "services")
        services = Services(server.url, nats, "closed")
        await services.start()
        running = Running(services, grace=60.0)
        began, ended = running.endless("long")

        with pytest.raises(errors.Timeout, match="maximum connections exceeded"):
            async with running:
                await services.give("long")
                await asyncio.wait_for(began.wait(), DEADLINE_S)
                server.turn_clients_away()
                await asyncio.wait_for(asyncio.shield(running.running), DEADLINE_S)
        assert ended.is_set()
    finally:
        server.kill()


async def test_a_cancelled_worker_leaves_no_handler_behind(services: Services) -> None:
    running = Running(services)
    began, ended = running.endless("long")

    with pytest.raises(asyncio.CancelledError):
        async with running:
            await services.give("long")
            await asyncio.wait_for(began.wait(), DEADLINE_S)
            running.running.cancel()
    await asyncio.wait_for(ended.wait(), DEADLINE_S)
    assert not services.seen  # the task is neither completed nor failed; its lease expires


async def test_a_worker_without_handlers_says_so() -> None:
    with pytest.raises(errors.InvalidRequest, match="no handler"):
        await Worker().run(handle_signals=False)


async def test_a_worker_that_never_reached_a_server_can_be_stopped() -> None:
    worker = Worker(f"nats://127.0.0.1:{free_port()}")
    worker.handler("unused")(lambda: None)
    running = asyncio.create_task(worker.run(handle_signals=False))
    await asyncio.sleep(0)
    worker.stop()
    await asyncio.wait_for(running, DEADLINE_S)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="concurrency"):
        Worker(concurrency=0)
    with pytest.raises(ValueError, match="lanes"):
        Worker(lanes="default")
    worker = Worker()
    worker.handler("a")(lambda: None)
    with pytest.raises(ValueError, match="already"):
        worker.handler("a")(lambda: None)
