"""`penstock.testing.replay_check`: new code over stored journals, without servers."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from penstock import Fail, StepFailed, SyncTask, Task
from penstock.testing import replay_check
from penstock.worker.durable.identity import code_of, digest_of

HOUR = timedelta(hours=1)


async def boom(*_: Any) -> Any:
    raise AssertionError("a step was run")


async def other(*_: Any) -> Any:
    raise AssertionError("a step was run")


def entry(n: int, key: str, result: Any = None, *, status: str = "done", **more: Any) -> dict[str, Any]:
    kind = key.partition(":")[0]
    return {"n": n, "key": key, "kind": kind, "status": status, "result": result} | more


def step(n: int, name: str, *args: Any, result: Any = None, **more: Any) -> dict[str, Any]:
    told = {"code": code_of(boom), "input_digest": digest_of(boom, args)}
    return entry(n, f"step:{name}", result, **(told | more))


def asleep(n: int) -> dict[str, Any]:
    return entry(n, "sleep:wait", status="waiting", until=1)


async def order(task: Task) -> Any:
    task.compensate("undo", boom)
    first = await task.step("first", boom, 1)
    await task.sleep("wait", HOUR)
    return [first, await task.step("last", boom)]


BEGUN = [entry(1, "compensate:undo"), step(2, "first", 1, result="a"), asleep(3)]
DONE = [*BEGUN[:2], entry(3, "sleep:wait"), step(4, "last", result="z")]
COMPLETED = {"state": "completed", "result": ["a", "z"]}


async def test_unchanged_code_does_not_differ() -> None:
    found = await replay_check(order, BEGUN)
    assert not found.differs and found.goes_on == ["sleep:wait"]
    found = await replay_check(order, DONE[:3])
    assert not found.differs and found.goes_on == ["step:last"]
    found = await replay_check(order, DONE, COMPLETED)
    assert not found.differs and found.goes_on == [] and str(found) == "the same"


async def test_what_is_gone_new_or_changed_is_told() -> None:
    async def gone(task: Task) -> Any:
        return [await task.step("first", boom, 1), await task.step("last", boom)]

    found = await replay_check(gone, DONE, COMPLETED)
    assert found.differs and found.orphans == ["compensate:undo", "sleep:wait"] and found.outcome is None

    async def new(task: Task) -> Any:
        task.compensate("undo", boom)
        await task.step("zeroth", boom)
        return await task.step("first", boom, 1)

    for journal, record in ((BEGUN, None), (DONE, COMPLETED)):
        found = await replay_check(new, journal, record)
        assert found.differs and found.new == ["step:zeroth"] and found.orphans == []
        assert found.unreached == [each["key"] for each in journal[1:]]
        assert "new: step:zeroth" in str(found)

    async def changed(task: Task) -> Any:
        task.compensate("undo", boom)
        first = await task.step("first", boom, 2)
        await task.sleep("wait", HOUR)
        return [first, await task.step("last", other)]

    found = await replay_check(changed, DONE, COMPLETED)
    assert found.differs and found.drift == ["step:first", "step:last"] and found.outcome is None


@pytest.mark.parametrize("on_change", ["fail", "rerun"])
async def test_changed_steps_that_are_not_reused(on_change: Any) -> None:
    async def changed(task: Task) -> Any:
        await task.step("first", other, 1, on_change=on_change)

    found = await replay_check(changed, [step(1, "first", 1)])
    assert found.differs and found.drift == ["step:first"]
    assert [key.startswith("step:first~") for key in found.goes_on] == [True] * (on_change == "rerun")


async def test_a_new_call_behind_the_end_differs() -> None:
    async def longer(task: Task) -> Any:
        task.state["stage"] = "new"
        done = await order(task)
        await task.step("mail", boom, once=True)
        return done

    assert not (await replay_check(longer, BEGUN)).differs
    found = await replay_check(longer, DONE, COMPLETED)
    assert found.new == ["step:mail"] and found.goes_on == []
    # One that was stopped from outside may go on anywhere.
    for record in (
        {"state": "canceled"},
        {"state": "failed", "failure": {"category": "deadline_exceeded"}},
    ):
        found = await replay_check(longer, DONE, record)
        assert not found.differs and found.goes_on == ["step:mail"]


async def test_outcomes_are_compared() -> None:
    async def fails(task: Task) -> Any:
        await order(task)
        raise Fail("no", "refused")

    found = await replay_check(fails, DONE, COMPLETED)
    assert found.outcome == 'it completed with ["a","z"]; this code fails (refused): no'
    failed = {"state": "failed", "failure": {"category": "refused", "reason": "no"}}
    undone = [
        *DONE,
        entry(5, "compensating:", status="started", error={"category": "refused", "reason": "no"}),
        entry(6, "undo:undo"),
    ]
    assert not (await replay_check(fails, undone, failed)).differs
    found = await replay_check(order, DONE, {"state": "completed", "result": 1})
    assert found.outcome == 'it completed with 1; this code completes with ["a","z"]'
    found = await replay_check(order, BEGUN, COMPLETED)
    assert found.outcome == 'it completed with ["a","z"]; this code waits at sleep:wait'
    assert not (await replay_check(order, DONE)).differs  # its worker died before it could tell


async def test_stored_failures_are_raised_and_compensations_go_on() -> None:
    async def handler(task: Task) -> Any:
        task.compensate("undo", boom)
        try:
            await task.step("charge", boom)
        except StepFailed as error:
            raise Fail(error.error_reason, "declined") from None

    failed = step(2, "charge", status="failed", error={"category": "card", "reason": "no"})
    marker = entry(3, "compensating:", status="started", error={"category": "declined", "reason": "no"})
    journal = [BEGUN[0], failed, marker]
    found = await replay_check(handler, journal)
    assert not found.differs and found.goes_on == ["undo:undo"]
    found = await replay_check(handler, [*journal, entry(4, "undo:undo")], {"state": "running"})
    assert not found.differs


async def test_branches_go_on_beside_one_that_stops() -> None:
    async def handler(task: Task, *, with_new: bool) -> Any:
        async def branch() -> int:
            await task.step("b", boom)
            return await task.step("c", boom)

        works = [task.step("a", boom), branch(), task.sleep("wait", HOUR)]
        if with_new:
            works.insert(0, task.step("new", boom))
        await task.parallel(*works, failures="cancel")
        return await task.step("end", boom)

    journal = [step(1, "a"), step(2, "b"), asleep(3), step(4, "c")]
    found = await replay_check(handler, journal, {"input": {"with_new": False}})
    assert not found.differs and found.goes_on == ["sleep:wait"]
    found = await replay_check(handler, journal, {"input": {"with_new": True}})
    assert not found.differs and set(found.goes_on) == {"step:new", "sleep:wait"}


async def test_what_a_lost_race_has_done_is_no_orphan() -> None:
    async def handler(task: Task, *, removed: bool = False) -> Any:
        async def slow() -> Any:
            await task.step("a", boom)
            return await task.step("b", boom)

        won = await task.first("race", slow=slow(), quick=task.step("quick", boom))
        if not removed:
            await task.step("after", boom)
        return won.branch

    race = entry(3, "first:race", {"branch": "quick", "left": ["step:a", "step:b"]})
    journal = [step(1, "a"), step(2, "quick"), race, step(4, "after")]
    record = {"state": "completed", "result": "quick"}
    assert not (await replay_check(handler, journal, record)).differs
    found = await replay_check(handler, journal, record | {"input": {"removed": True}})
    assert found.orphans == ["step:after"]


async def test_compensations_are_refused_in_a_race() -> None:
    async def handler(task: Task) -> Any:
        async def branch() -> None:
            task.compensate("undo", boom)

        await task.first("race", one=branch(), other=task.step("a", boom))

    found = await replay_check(handler, [step(1, "a")], COMPLETED)
    assert "fails (step_key_needed): compensate:undo is registered in a branch" in (found.outcome or "")


async def test_calls_that_only_a_service_can_answer_are_a_problem() -> None:
    async def handler(task: Task) -> Any:
        await task.progress(50)
        await task.append_frame("token", "x")
        await task.step("first", boom, 1)
        await task.create_child("child")

    found = await replay_check(handler, BEGUN[1:2])
    assert found.differs and "execution.create" in (found.problem or "")


async def test_sync_handlers_and_the_input() -> None:
    def handler(task: SyncTask, name: str) -> Any:
        done = task.step("first", str, name)
        task.sleep("wait", HOUR)
        return done

    told = {"code": code_of(str), "input_digest": digest_of(str, ("x",))}
    journal = [entry(1, "step:first", "x", **told), entry(2, "sleep:wait")]
    record = {"state": "completed", "input": {"name": "x"}, "result": "x"}
    assert not (await replay_check(handler, journal, record)).differs
    found = await replay_check(handler, journal, record | {"input": {}})
    assert found.outcome is not None and "invalid_input" in found.outcome


async def test_a_handler_without_rest_is_stopped() -> None:
    async def handler(task: Task) -> None:
        await task.step("first", boom, 1)
        await asyncio.Event().wait()

    found = await replay_check(handler, BEGUN[1:2], patience=0.05)
    assert found.differs and found.problem == "the handler has come to no rest within 0.05 s"
