"""The worker's loop over a real nats-server; scheduler and lease-keeper answer from a script here, so that
every odd answer can be had. tests/contract/test_sdk.py has the real services.
"""

import asyncio
import contextlib
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from nats.aio.client import Client as Nats
from nats.errors import NoRespondersError

from penstock import Fail, PossiblySucceeded, Retry, Suspend, Task, TaskConsumedError, Worker, errors, verbs
from penstock.bus.connection import connect
from penstock.bus.endpoints import Call, Endpoints
from penstock.clock import ValkeyClock
from penstock.messages.leases import TaskMessage
from penstock.worker import _outcomes as outcomes
from penstock.worker._leases import Lease
from penstock.worker._outages import OutageLog
from servers import NatsServer, free_port

Script = Callable[[Any], Any]
DEADLINE_S = 10.0
roots = itertools.count()


class Services:
    """Answers worker verbs: by the script for a verb if there is one, else as all goes well."""

    def __init__(self, url: str, nats: Nats, root: str) -> None:
        self.url, self.nats, self.root = url, nats, root
        self.ready: deque[dict[str, Any]] = deque()
        self.parked: deque[tuple[str, int]] = deque()
        self.scripts: dict[str, Script] = {}
        self.seen: list[tuple[str, Any]] = []
        self.asked = 0
        self._changed = asyncio.Event()
        self._serial = itertools.count(1)
        self._endpoints: Endpoints | None = None

    async def start(self) -> None:
        plain = {
            verbs.LEASE_COMPLETE: {"state": "completed"},
            verbs.LEASE_FAIL: {"outcome": "terminal_failed"},
            verbs.LEASE_RELEASE: {"state": "ready"},
            verbs.LEASE_RENEW: {"expires_at": 0, "cancel_requested": False},
            verbs.LEASE_PROGRESS: {"progress": {}},
            verbs.LEASE_SUSPEND: {"outcome": "suspended"},
            verbs.EXECUTION_GET: errors.make("execution_not_found"),
        }
        handlers: dict[Any, Any] = {verb: self._handler(verb.name, reply) for verb, reply in plain.items()}
        handlers[verbs.WORK_NEXT] = self._next
        handlers[verbs.WORKER_REGISTER] = handlers[verbs.WORKER_HEARTBEAT] = self._seen
        self._endpoints = Endpoints(self.nats, "scheduler", handlers, root=self.root)
        await self._endpoints.start()

    async def stop(self) -> None:
        assert self._endpoints is not None
        await self._endpoints.drain(1.0)

    def _handler(self, name: str, reply: Any) -> Callable[[Call[Any]], Awaitable[list[Any]]]:
        async def handler(call: Call[Any]) -> list[Any]:
            answers: list[Any] = []
            for item in call.items:
                self.seen.append((name, item))
                answer = self.scripts[name](item) if name in self.scripts else reply
                answers.append(await answer if asyncio.iscoroutine(answer) else answer)
            self._changed.set()
            return answers

        return handler

    async def _seen(self, call: Call[Any]) -> list[Any]:
        now = round(time.time() * 1000)
        seen = {"status": "active", "heartbeat_ms": 10_000, "registered_at": now, "seen_at": now}
        return [{"worker_id": item.worker_id, "lanes": item.lanes, **seen} for item in call.items]

    async def _next(self, call: Call[Any]) -> list[Any] | None:
        self.asked += 1
        if refused := self.scripts.get("work.next", lambda _: None)(call.items[0]):
            return [refused]
        self.parked.append((call.reply_to, call.items[0].max))
        self._changed.set()
        await self._hand_out()
        return None

    async def _hand_out(self) -> None:
        while self.parked and self.ready:
            reply_to, most = self.parked.popleft()
            tasks = [self.ready.popleft() for _ in range(min(most, len(self.ready)))]
            await self.nats.publish(reply_to, msgspec.json.encode({"tasks": tasks}))

    async def give(self, kind: str, input: Any = None, **more: Any) -> None:
        self.ready.append(self.task(kind, input, **more))
        await self._hand_out()

    def task(self, kind: str, input: Any = None, **more: Any) -> dict[str, Any]:
        n = next(self._serial)
        task = {
            "execution_id": f"0-01890000-0000-7000-8000-{n:012x}",
            "kind": kind,
            "lane": "default",
            "input": input,
            "attempt_index": 1,
            "attempt_id": f"attempt{n}",
            "lease_id": f"lease{n}",
            "lease_epoch": 1,
            "lease_expires_at": round(time.time() * 1000) + 3_600_000,
        }
        return task | more

    def got(self, name: str) -> list[Any]:
        return [item for verb, item in self.seen if verb == name]

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            while not (value := condition()):
                self._changed.clear()
                await self._changed.wait()
        return value

    async def outcome(self, name: str) -> Any:
        """The first request of this verb."""
        return (await self.until(lambda: self.got(name)))[0]

    async def push(self, worker: Worker, message: dict[str, Any]) -> None:
        await self.nats.publish(f"{self.root}.worker.{worker.worker_id}", msgspec.json.encode(message))


@pytest.fixture
async def services(nats_url: str) -> AsyncIterator[Services]:
    nats = await connect(nats_url, "services")
    services = Services(nats_url, nats, f"test{next(roots)}")
    await services.start()
    yield services
    await services.stop()
    await nats.close()


class Running:
    """A worker in this event loop."""

    def __init__(self, services: Services, **settings: Any) -> None:
        self.worker = Worker(services.url, root=services.root, **{"grace": 5.0, **settings})

    async def __aenter__(self) -> Worker:
        self.running = asyncio.create_task(self.worker.run(handle_signals=False))
        await self.worker.ready.wait()
        return self.worker

    async def __aexit__(self, *_: object) -> None:
        if not self.running.done():
            self.worker.stop()
        await asyncio.wait_for(self.running, DEADLINE_S)


async def test_a_result_is_encoded_from_its_type(services: Services) -> None:
    class Receipt(msgspec.Struct):
        to: str

    running = Running(services)

    @running.worker.handler("mail.send")
    async def send(task: Task, to: str) -> Receipt:
        return Receipt(to)

    async with running:
        await services.give("mail.send", {"to": "a"})
        done = await services.outcome("lease.complete")
    assert done.lease_id == "lease1" and done.result == '{"to":"a"}'


async def test_sync_handlers_run_in_threads(services: Services) -> None:
    running = Running(services, concurrency=2)
    meet = threading.Barrier(2, timeout=DEADLINE_S)

    @running.worker.handler("sync")
    def both(task: Task) -> str:
        meet.wait()  # two at a time, or never
        task.run(task.progress(50, "half"))
        return threading.current_thread().name

    async with running:
        await services.give("sync")
        await services.give("sync")
        await services.until(lambda: len(services.got("lease.complete")) == 2)
    assert all("penstock-handler" in done.result for done in services.got("lease.complete"))
    assert len(services.got("lease.progress")) == 2


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("no"), {"category": "value_error", "reason": "ValueError: no", "retryable": True}),
        (Retry(after=2), {"category": "retry", "retry_after_ms": 2000, "retryable": True}),
        (Fail("bad card", "card"), {"category": "card", "reason": "bad card", "retryable": False}),
        (errors.make("waitpoint_not_found"), {"category": "waitpoint_not_found", "retryable": True}),
        # Of another execution, which the handler has asked about: its own lease is all right.
        (errors.make("execution_not_found"), {"category": "execution_not_found", "retryable": True}),
        (ValueError("a \udc80"), {"category": "value_error", "reason": "ValueError: a \\udc80"}),
        (Mute(), {"category": "mute", "reason": "Mute: its text cannot be had"}),
        (SystemExit(3), {"category": "system_exit", "reason": "SystemExit: 3", "retryable": True}),
        (Retry(after=-1), {"category": "retry", "retry_after_ms": 0, "retryable": True}),
        (Retry(after=float("inf")), {"category": "overflow_error", "retryable": True}),
        (asyncio.CancelledError(), {"category": "cancelled_error", "retryable": True}),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_exceptions_are_failures(
    services: Services, raised: BaseException, expected: dict[str, Any]
) -> None:
    running = Running(services)

    @running.worker.handler("raises")
    async def raises() -> None:
        raise raised

    async with running:
        await services.give("raises")
        failed = await services.outcome("lease.fail")
    assert {name: getattr(failed, name) for name in expected} == expected


async def test_a_thread_may_raise_anything(services: Services) -> None:
    running = Running(services)

    @running.worker.handler("raises")
    def raises() -> None:
        raise StopIteration  # as next() does, and no future takes it

    async with running:
        await services.give("raises")
        failed = await services.outcome("lease.fail")
    assert (failed.category, failed.reason) == (
        "runtime_error",
        "RuntimeError: the handler raised StopIteration",
    )


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "result", [object(), CYCLE, Raw(b"{not JSON"), Raw(b"1, 2"), Raw(b""), Raw(b'"\xff"')], ids=repr
)
async def test_a_bad_result_fails_alone(services: Services, result: Any) -> None:
    """Results of one tick leave as one message, where a piece that is no JSON would take the others down."""
    running = Running(services)
    gate = asyncio.Barrier(2)

    @running.worker.handler("bad")
    async def bad() -> Any:
        await gate.wait()
        return result

    @running.worker.handler("good")
    async def good() -> str:
        await gate.wait()
        return "good"

    async with running:
        await services.give("bad")
        await services.give("good")
        failed, done = await services.outcome("lease.fail"), await services.outcome("lease.complete")
    assert (failed.category, failed.retryable, done.result) == ("invalid_result", False, '"good"')


async def test_what_cannot_be_handled_is_a_clear_failure(services: Services) -> None:
    running = Running(services)

    @running.worker.handler("strict")
    async def strict(n: int) -> object:
        return object()

    async with running:
        await services.give("unknown.kind")
        await services.give("strict", {"n": "x"})
        await services.give("strict", {"n": 1})
        failures = await services.until(
            lambda: len(services.got("lease.fail")) == 3 and services.got("lease.fail")
        )
    assert [(f.category, f.retryable) for f in sorted(failures, key=lambda f: f.lease_id)] == [
        ("no_handler", True),
        ("invalid_input", False),
        ("invalid_result", False),
    ]


@pytest.mark.parametrize(("code", "retryable"), [("payload_too_large", False), ("budget_not_found", True)])
async def test_a_refused_result_becomes_a_failure(services: Services, code: str, retryable: bool) -> None:
    services.scripts["lease.complete"] = lambda _: errors.make(code)
    running = Running(services)

    @running.worker.handler("big")
    async def big() -> str:
        return "x"

    async with running:
        await services.give("big")
        failed = await services.outcome("lease.fail")
    assert failed.category == code and failed.retryable is retryable


@pytest.mark.parametrize("how", ["raised", "called"])
async def test_a_refused_suspension_becomes_a_failure(services: Services, how: str) -> None:
    services.scripts["lease.suspend"] = lambda _: errors.make("waitpoint_not_found")
    running = Running(services)

    @running.worker.handler("waits")
    async def waits(task: Task) -> None:
        if how == "raised":
            raise Suspend("approved", waitpoint="0-01890000-0000-7000-8000-000000000000")
        await task.suspend("approved", waitpoint="0-01890000-0000-7000-8000-000000000000")

    async with running:
        await services.give("waits")
        failed = await services.outcome("lease.fail")
    assert failed.category == "waitpoint_not_found" and failed.retryable


async def test_a_refused_failure_is_said_and_not_repeated(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    services.scripts["lease.complete"] = services.scripts["lease.fail"] = lambda _: errors.make("internal")
    running = Running(services)

    @running.worker.handler("noop")
    async def noop() -> None: ...

    async with running:
        await services.give("noop")
        await services.outcome("lease.fail")
    assert len(services.got("lease.complete")) == len(services.got("lease.fail")) == 1
    assert caplog.text.count("the outcome was refused") == 2


async def test_a_task_is_consumed_once(services: Services) -> None:
    running = Running(services)
    caught: list[BaseException] = []

    @running.worker.handler("twice")
    async def twice(task: Task) -> str:
        assert await task.complete({"n": 1}) == "completed"
        for again in (task.complete(2), task.fail("x"), task.suspend()):
            try:
                await again
            except TaskConsumedError as error:
                caught.append(error)
        return "not the result"

    async with running:
        await services.give("twice")
        await services.until(lambda: services.got("lease.complete"))
    assert len(caught) == 3
    assert [name for name, _ in services.seen] == ["lease.complete"]
    assert services.got("lease.complete")[0].result == '{"n":1}'


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


@pytest.mark.parametrize("when", ["meanwhile", "after"])
@pytest.mark.parametrize("answer", ["already_satisfied", "refused"])
async def test_a_handler_that_keeps_its_lease_can_still_be_cancelled(
    services: Services, when: str, answer: str
) -> None:
    running = Running(services)
    kept = asyncio.Event()

    async def push() -> None:
        await services.push(running.worker, {"type": "cancel", "lease_id": "lease1"})

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
        await services.push(worker, {"type": "cancel", "lease_id": "lease1"})
        done = await services.outcome("lease.complete")
    assert done.result == '"stopped early"'


async def test_an_outcome_is_repeated_until_it_is_answered(services: Services) -> None:
    tries = itertools.count(1)
    services.scripts["lease.complete"] = lambda _: (
        errors.make("valkey_unavailable") if next(tries) < 3 else {"state": "completed"}
    )
    running = Running(services)

    @running.worker.handler("noop")
    async def noop() -> None: ...

    async with running:
        await services.give("noop")
        await services.until(lambda: len(services.got("lease.complete")) == 3)
    assert len({(d.lease_id, d.lease_epoch, d.attempt_index) for d in services.got("lease.complete")}) == 1


@pytest.mark.parametrize(
    ("state", "attempt_id", "expected"),
    [
        ("completed", "attempt1", "completed"),
        ("running", "attempt2", errors.StaleLease),
        ("ready", "attempt1", errors.StaleLease),
        (None, "", PossiblySucceeded),
    ],
)
async def test_the_state_tells_when_the_answer_never_comes(
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    attempt_id: str,
    expected: Any,
) -> None:
    monkeypatch.setattr(outcomes, "MARGIN_S", 0.0)
    monkeypatch.setattr(outcomes, "LONGEST_DELAY_S", 0.1)
    services.scripts["lease.complete"] = lambda _: errors.make("valkey_unavailable")
    services.scripts["lease.renew"] = lambda _: errors.make("valkey_unavailable")

    def record(item: Any) -> Any:
        if state is None:
            return errors.make("valkey_unavailable")
        return {
            "execution_id": item.execution_id,
            "namespace": "default",
            "kind": "noop",
            "lane": "default",
            "priority": 0,
            "state": state,
            "attempt_id": attempt_id,
        }

    services.scripts["execution.get"] = record
    running = Running(services, lease_ttl=0.3)
    fate: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @running.worker.handler("noop")
    async def noop(task: Task) -> None:
        try:
            fate.set_result(await task.complete())
        except (errors.PenstockError, PossiblySucceeded) as error:
            fate.set_result(type(error))

    async with running:
        await services.give("noop")
        assert await asyncio.wait_for(fate, DEADLINE_S) == expected


async def test_a_raised_suspend_suspends_and_ends(services: Services) -> None:
    running = Running(services)

    @running.worker.handler("approval")
    async def approval() -> None:
        raise Suspend("approved", timeout=60, timeout_behavior="resume", waitpoint="0-" + "0" * 8)

    services.scripts["lease.suspend"] = lambda _: {"outcome": "suspended", "token": "t"}
    async with running:
        # An id that is not one: refused by the service, so the attempt fails and says why.
        await services.give("approval")
        failed = await services.outcome("lease.fail")
    assert failed.category == "invalid_request" and "waitpoint_id" in failed.reason


async def test_signals_that_came_before_run_the_handler_again(services: Services) -> None:
    answers = iter(
        [
            {
                "outcome": "already_satisfied",
                "items": [{"signal_id": "s1", "name": "go", "payload": 7, "at": 1}],
            },
            {"outcome": "suspended"},
        ]
    )
    services.scripts["lease.suspend"] = lambda _: next(answers)
    running = Running(services)
    runs: list[tuple[bool, list[Any]]] = []

    @running.worker.handler("approval")
    async def approval(task: Task) -> None:
        signals = await task.resumed_by() if task.resumed else []
        runs.append((task.resumed, [(s.name, s.payload) for s in signals]))
        raise Suspend("go" if not signals else "more")

    async with running:
        await services.give("approval")
        await services.until(lambda: len(services.got("lease.suspend")) == 2)
    assert runs == [(False, []), (True, [("go", 7)])]
    assert [s.condition.name for s in services.got("lease.suspend")] == ["go", "more"]


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
        assert not services.parked  # full: it does not ask
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
    began, ended = asyncio.Event(), asyncio.Event()

    @running.worker.handler("endless")
    async def endless() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running:
        await services.give("endless")
        await asyncio.wait_for(began.wait(), DEADLINE_S)
    assert ended.is_set() and not services.seen


async def test_an_idle_worker_stops_at_once(services: Services) -> None:
    """And nobody listens any more for what its parked request may still be granted."""
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
            go_on.set()  # its outcome is on the way while there is no server
            services.parked.clear()
            server.start()
            await services.outcome("lease.complete")
            await services.until(lambda: services.parked)  # asked again, long before a minute is over
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
        began, ended = asyncio.Event(), asyncio.Event()

        @running.worker.handler("long")
        async def long() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

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
    began, ended = asyncio.Event(), asyncio.Event()

    @running.worker.handler("long")
    async def long() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(asyncio.CancelledError):
        async with running:
            await services.give("long")
            await asyncio.wait_for(began.wait(), DEADLINE_S)
            running.running.cancel()
    await asyncio.wait_for(ended.wait(), DEADLINE_S)
    assert not services.seen  # neither completed nor failed: its lease runs out


async def test_a_worker_that_never_reached_a_server_can_be_stopped() -> None:
    worker = Worker(f"nats://127.0.0.1:{free_port()}")
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


async def overfilled(services: Services) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answers a worker of one slot with two tasks, as a late reply may."""
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


async def test_tasks_beyond_the_free_slots_are_renewed_until_they_begin(services: Services) -> None:
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


async def test_a_task_whose_lease_is_lost_while_it_waits_for_a_slot_never_begins(services: Services) -> None:
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
        await services.until(lambda: len(refusals) > 1)  # the worker has heard the first one by then
        go.set()
        await services.until(lambda: services.got("lease.complete"))
        await services.give("slow")  # the slot goes to the next one
        await services.until(lambda: len(services.got("lease.complete")) == 2)
    assert begun == [first["lease_id"], "lease3"]


def test_a_lease_ends_when_its_own_clock_says_so_not_a_ttl_after_it_arrived() -> None:
    clock = ValkeyClock()
    behind_ms = 3_600_000  # Valkey's clock goes otherwise
    now = time.monotonic()
    clock.learn(round(time.time() * 1000) - behind_ms, now, now)
    left_ms = 200
    message = TaskMessage(
        execution_id="0-1", kind="k", lane="default", attempt_index=1, attempt_id="a", lease_id="l", lease_epoch=1,
        lease_expires_at=round(clock.now()) + left_ms, resumed=False,
    )  # fmt: skip
    lease = Lease(message, 30.0, clock)
    assert now + 0.1 < lease.expires < time.monotonic() + left_ms / 1000 + 0.01
    assert lease.healthy
    late = msgspec.structs.replace(message, lease_expires_at=round(clock.now()) - 1)
    assert not Lease(late, 30.0, clock).healthy


@pytest.mark.parametrize("ahead_ms", [60_000, 0, -60_000])
def test_a_slow_answer_never_makes_a_lease_look_longer_than_it_is(ahead_ms: int) -> None:
    clock = ValkeyClock()
    assert clock.earliest(0) == -math.inf  # nothing is known: no lease is surely held
    offset = time.time() * 1000 + ahead_ms - time.monotonic() * 1000  # the true one
    for sent, answered, received in ((0.0, 0.1, 5.0), (5.0, 9.9, 10.0), (10.0, 10.01, 10.02)):
        begin = time.monotonic() - 20
        clock.learn(int((begin + answered) * 1000 + offset), begin + sent, begin + received)
        at = (time.monotonic() + 1) * 1000 + offset
        truly = (at - offset) / 1000
        assert clock.earliest(at) <= truly
    assert truly - clock.earliest(at) < 0.1  # and a quick answer makes it exact
    forward = offset + 3_600_000  # Valkey's clock steps
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
