"""A worker keeps its leases, loses them, and is asked to stop."""

import asyncio
import contextlib
import math
import threading
import time
from typing import Any

import msgspec
import pytest

from penstock import Task, errors
from penstock.clock import ValkeyClock
from penstock.messages.leases import TaskMessage
from penstock.worker import _surplus
from penstock.worker._leases import Lease
from scripted_services import DEADLINE_S, Running, Services


async def overfilled(services: Services) -> tuple[dict[str, Any], dict[str, Any]]:
    """Send two tasks to a worker that can run one, as may happen with a late reply."""
    await services.until(lambda: services.parked)
    reply_to, most = services.parked.popleft()
    assert most == 1
    first, second = services.task("slow"), services.task("slow")
    await services.nats.publish(reply_to, msgspec.json.encode({"tasks": [first, second]}))
    return first, second


def slow_worker(services: Services) -> tuple[Running, list[str], asyncio.Event]:
    running = Running(services, concurrency=1, lease_ttl=0.6)
    begun: list[str] = []
    go = asyncio.Event()

    @running.worker.handler("slow")
    async def slow(task: Task) -> None:
        begun.append(task.lease_id)
        await go.wait()

    return running, begun, go


async def test_a_lost_lease_cancels_the_handler_and_nothing_is_sent(services: Services) -> None:
    services.scripts["lease.renew"] = lambda _: errors.make("stale_lease")
    running = Running(services, lease_ttl=0.3)
    ended = asyncio.Event()
    task_seen: list[Task] = []

    @running.worker.handler("long")
    async def long(task: Task) -> None:
        task_seen.append(task)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running:
        await services.give("long")
        await asyncio.wait_for(ended.wait(), DEADLINE_S)
        await services.until(lambda: services.asked > 1)
    assert {name for name, _ in services.seen} == {"lease.renew"}
    assert not task_seen[0].is_lease_healthy()


@pytest.mark.parametrize("heeded", [True, False])
async def test_a_refused_fence_is_a_lost_lease(services: Services, heeded: bool) -> None:
    services.scripts["lease.progress"] = lambda _: errors.make("stale_lease")
    running = Running(services)
    ended = asyncio.Event()

    @running.worker.handler("long")
    async def long(task: Task) -> None:
        try:
            with contextlib.nullcontext() if heeded else contextlib.suppress(errors.StaleLease):
                await task.progress(1)
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running:
        await services.give("long")
        await asyncio.wait_for(ended.wait(), DEADLINE_S)
        await services.until(lambda: services.asked > 1)
    assert {name for name, _ in services.seen} == {"lease.progress"}


async def test_a_lease_that_cannot_be_renewed_ends_with_its_time(services: Services) -> None:
    services.scripts["lease.renew"] = lambda _: errors.make("valkey_unavailable")
    running = Running(services, lease_ttl=0.6)
    healthy: list[tuple[int, bool]] = []
    ended = asyncio.Event()

    @running.worker.handler("long")
    async def long(task: Task) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            healthy.append((task.consecutive_renewal_failures(), task.is_lease_healthy()))
            ended.set()

    async with running:
        await services.give("long")
        await asyncio.wait_for(ended.wait(), DEADLINE_S)
    assert healthy[0][0] >= 2 and not healthy[0][1]
    assert {name for name, _ in services.seen} == {"lease.renew"}


async def test_a_blocked_event_loop_is_named(services: Services, caplog: pytest.LogCaptureFixture) -> None:
    running = Running(services, lease_ttl=0.15)

    @running.worker.handler("blocks")
    async def blocks() -> None:
        threading.Event().wait(0.4)
        await services.until(lambda: services.got("lease.renew"))

    async with running:
        await services.give("blocks")
        await services.outcome("lease.complete")
    assert "an async handler blocks the event loop" in caplog.text


async def test_renewals_keep_a_long_task(services: Services) -> None:
    running = Running(services, lease_ttl=0.3)
    go_on = asyncio.Event()

    @running.worker.handler("long")
    async def long(task: Task) -> bool:
        await go_on.wait()
        return task.is_lease_healthy()

    async with running:
        await services.give("long")
        await services.until(lambda: len(services.got("lease.renew")) >= 4)
        go_on.set()
        done = await services.outcome("lease.complete")
    assert done.result == "true"


@pytest.mark.parametrize("how", ["pushed", "renewed"])
async def test_a_cancel_request_cancels_the_handler(services: Services, how: str) -> None:
    running = Running(services, lease_ttl=0.6)
    began = asyncio.Event()

    @running.worker.handler("long")
    async def long(task: Task) -> None:
        began.set()
        await asyncio.Event().wait()

    async with running as worker:
        await services.give("long")
        await asyncio.wait_for(began.wait(), DEADLINE_S)
        if how == "pushed":
            await services.push(worker, {"type": "cancel", "execution_id": "x", "lease_id": "lease1"})
        else:
            services.scripts["lease.renew"] = lambda _: {"expires_at": 0, "cancel_requested": True}
        failed = await services.outcome("lease.fail")
    assert failed.category == "canceled" and not failed.retryable


async def test_a_canceled_task_whose_lease_is_gone_is_no_warning(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    services.scripts["lease.fail"] = lambda _: errors.make("execution_not_active")
    running = Running(services)
    began = asyncio.Event()

    @running.worker.handler("long")
    async def long(task: Task) -> None:
        began.set()
        await asyncio.Event().wait()

    async with running as worker:
        await services.give("long")
        await asyncio.wait_for(began.wait(), DEADLINE_S)
        await services.push(worker, {"type": "cancel", "execution_id": "x", "lease_id": "lease1"})
        await services.until(lambda: "the outcome was refused" in caplog.text)
    [said] = [each for each in caplog.records if "the outcome was refused" in each.message]
    assert said.levelname == "INFO"


@pytest.mark.parametrize("when", ["meanwhile", "after"])
@pytest.mark.parametrize("answer", ["already_satisfied", "refused"])
async def test_a_handler_that_keeps_its_lease_can_still_be_cancelled(
    services: Services, when: str, answer: str
) -> None:
    running = Running(services)
    kept = asyncio.Event()

    async def push() -> None:
        await services.push(running.worker, {"type": "cancel", "execution_id": "x", "lease_id": "lease1"})

    async def suspend(_: Any) -> Any:
        if when == "meanwhile":
            await push()
            await services.nats.flush()
        refused = errors.make("waitpoint_not_found")
        return {"outcome": answer, "items": []} if answer == "already_satisfied" else refused

    services.scripts["lease.suspend"] = suspend

    @running.worker.handler("waits")
    async def waits(task: Task) -> None:
        with contextlib.suppress(errors.WaitpointNotFound):
            await task.suspend("approved")
        kept.set()
        await asyncio.Event().wait()

    async with running:
        await services.give("waits")
        await asyncio.wait_for(kept.wait(), DEADLINE_S)
        if when == "after":
            await push()
        failed = await services.outcome("lease.fail")
    assert failed.category == "canceled"


async def test_sync_handlers_poll_for_cancellation(services: Services) -> None:
    running = Running(services)
    began = threading.Event()

    @running.worker.handler("long")
    def long(task: Task) -> str:
        began.set()
        while not task.cancel_requested:
            threading.Event().wait(0.005)
        return "stopped early"

    async with running as worker:
        await services.give("long")
        await asyncio.to_thread(began.wait, DEADLINE_S)
        await services.push(worker, {"type": "cancel", "execution_id": "x", "lease_id": "lease1"})
        done = await services.outcome("lease.complete")
    assert done.result == '"stopped early"'


async def test_tasks_beyond_the_free_slots_are_renewed_until_they_begin(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_surplus, "SLOT_S", DEADLINE_S)
    running, begun, go = slow_worker(services)
    async with running:
        first, second = await overfilled(services)

        def renewals() -> int:
            return sum(request.lease_id == second["lease_id"] for request in services.got("lease.renew"))

        await services.until(lambda: renewals() >= 2)
        assert begun == [first["lease_id"]]
        go.set()
        await services.until(lambda: len(services.got("lease.complete")) == 2)
    assert begun == [first["lease_id"], second["lease_id"]]


async def test_a_task_whose_lease_is_lost_while_it_waits_for_a_slot_never_begins(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_surplus, "SLOT_S", DEADLINE_S)
    running, begun, go = slow_worker(services)
    refusals: list[str] = []

    def renew(request: Any) -> Any:
        if request.lease_id == "lease2":
            refusals.append(request.lease_id)
            return errors.make("stale_lease")
        return {"expires_at": 0, "cancel_requested": False}

    services.scripts["lease.renew"] = renew
    async with running:
        first, second = await overfilled(services)
        assert second["lease_id"] == "lease2"
        await services.until(lambda: len(refusals) > 1)  # by then the worker has received the first refusal
        go.set()
        await services.until(lambda: services.got("lease.complete"))
        await services.give("slow")  # the freed capacity goes to the next task
        await services.until(lambda: len(services.got("lease.complete")) == 2)
    assert begun == [first["lease_id"], "lease3"]


def test_a_lease_ends_when_its_own_clock_says_so_not_a_ttl_after_it_arrived() -> None:
    clock = ValkeyClock()
    behind_ms = 3_600_000  # Valkey's clock is an hour behind
    now = time.monotonic()
    clock.learn(round(time.time() * 1000) - behind_ms, now, now)
    left_ms = 20_000
    message = TaskMessage(
        execution_id="0-1", kind="k", lane="default", attempt_index=1, attempt_id="a", lease_id="l", lease_epoch=1,
        lease_expires_at=round(clock.now()) + left_ms, resumed=False,
    )  # fmt: skip
    lease = Lease(message, 30.0, clock)
    assert now + 10 < lease.expires <= time.monotonic() + left_ms / 1000 + 0.01
    assert lease.healthy
    late = msgspec.structs.replace(message, lease_expires_at=round(clock.now()) - 1)
    assert not Lease(late, 30.0, clock).healthy


@pytest.mark.parametrize("ahead_ms", [60_000, 0, -60_000])
def test_a_slow_answer_never_makes_a_lease_look_longer_than_it_is(ahead_ms: int) -> None:
    clock = ValkeyClock()
    assert clock.earliest(0) == -math.inf  # the clock knows nothing yet, so no lease counts as held
    offset = time.time() * 1000 + ahead_ms - time.monotonic() * 1000  # the true offset (ms)
    for sent, answered, received in ((0.0, 0.1, 5.0), (5.0, 9.9, 10.0), (10.0, 10.01, 10.02)):
        begin = time.monotonic() - 20
        clock.learn(int((begin + answered) * 1000 + offset), begin + sent, begin + received)
        at = (time.monotonic() + 1) * 1000 + offset
        truly = (at - offset) / 1000
        assert clock.earliest(at) <= truly
    assert truly - clock.earliest(at) < 0.1  # a quick answer makes the estimate exact
    forward = offset + 3_600_000  # Valkey's clock jumps an hour ahead
    now = time.monotonic()
    clock.learn(int(now * 1000 + forward), now, now)
    assert abs(clock.earliest(now * 1000 + forward) - now) < 0.1


async def test_a_task_whose_lease_may_have_ended_on_its_way_begins_only_once_it_is_renewed(
    services: Services,
) -> None:
    running, begun, go = slow_worker(services)
    go.set()
    renewed: list[str] = []

    def renew(request: Any) -> Any:
        assert request.lease_id in renewed or request.lease_id not in begun
        renewed.append(request.lease_id)
        if request.lease_id == "lease1":
            return errors.make("lease_expired")
        return {"expires_at": 0, "cancel_requested": False}

    services.scripts["lease.renew"] = renew
    async with running:
        await services.give("slow", lease_expires_at=1)
        await services.give("slow", lease_expires_at=1)
        await services.until(lambda: len(services.got("lease.complete")) == 1)
    assert begun == ["lease2"]
    assert {"lease1", "lease2"} <= set(renewed)
