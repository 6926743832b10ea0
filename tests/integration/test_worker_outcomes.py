"""The end of a task: results, failures, suspensions, and outcomes that are repeated until they are answered."""

import asyncio
import itertools
import threading
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from penstock import Fail, PossiblySucceeded, Retry, Suspend, Task, TaskConsumedError, errors
from penstock.worker import _outcomes as outcomes
from scripted_services import DEADLINE_S, Running, Services


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


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
        meet.wait()  # passes only if two handlers run at the same time
        task.run(task.progress(50, "half"))
        return threading.current_thread().name

    async with running:
        await services.give("sync")
        await services.give("sync")
        await services.until(lambda: len(services.got("lease.complete")) == 2)
    assert all("penstock-handler" in done.result for done in services.got("lease.complete"))
    assert len(services.got("lease.progress")) == 2


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("no"), {"category": "value_error", "reason": "ValueError: no", "retryable": True}),
        (Retry(after=2), {"category": "retry", "retry_after_ms": 2000, "retryable": True}),
        (Fail("bad card", "card"), {"category": "card", "reason": "bad card", "retryable": False}),
        (errors.make("waitpoint_not_found"), {"category": "waitpoint_not_found", "retryable": True}),
        # The error is about another execution that the handler asked about; the task's own lease is still good.
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
        raise StopIteration  # as next() may; a future does not accept this exception

    async with running:
        await services.give("raises")
        failed = await services.outcome("lease.fail")
    assert (failed.category, failed.reason) == (
        "runtime_error",
        "RuntimeError: the handler raised StopIteration",
    )


@pytest.mark.parametrize(
    "result",
    [object(), CYCLE, Raw(b"{not JSON"), Raw(b"1, 2"), Raw(b""), Raw(b'"\xff"')],
    ids=["unknown type", "cycle", "no JSON", "two values", "nothing", "no UTF-8"],
)
async def test_a_bad_result_fails_alone(services: Services, result: Any) -> None:
    """Results of one tick leave as one message, in which a result that is not JSON would spoil the others."""
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
    ("state", "lease_epoch", "expected"),
    [
        ("completed", 1, "completed"),
        (
            "completed",
            2,
            errors.StaleLease,
        ),  # the attempt went on with another lease, and was completed in that
        ("running", 2, errors.StaleLease),
        ("ready", 1, errors.StaleLease),
        (None, 0, PossiblySucceeded),
    ],
)
async def test_the_state_tells_when_the_answer_never_comes(
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    lease_epoch: int,
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
            "attempt_id": "attempt1",
            "lease_epoch": lease_epoch,
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
        # The service refuses a malformed id, so the attempt fails with that reason.
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
