"""lease.park: waits for times, signals and children, alone and together, in every order."""

from functools import partial
from typing import Any

import pytest

from journals import append, journal, step
from lifecycles import HOUR_MS, last, names, now, outcome, running
from penstock.errors import PenstockError
from racing import ORDERS, race, rounds
from running_penstock import RunningPenstock, fence

"""A wait ends in its execution's partition, however many there are."""

MINUTE_MS = 60_000
GO = {"waitpoint_key": "go", "condition": {"name": "go"}}


def wait(name: str, **what: Any) -> dict[str, Any]:
    return {"key": f"wait:{name}", "kind": "wait", "name": name, "status": "waiting"} | what


def child(name: str = "kid", **spec: Any) -> dict[str, Any]:
    return wait(name, child={"kind": "kid", "lane": "kids"} | spec)


async def park(penstock: RunningPenstock, task: dict[str, Any], *entries: dict[str, Any], **more: Any) -> Any:
    return await penstock.request("lease.park", fence(task) | {"entries": list(entries)} | more)


async def entry(penstock: RunningPenstock, execution_id: str, key: str) -> dict[str, Any]:
    return next(each for each in await journal(penstock, execution_id) if each["key"] == key)


def send(penstock: RunningPenstock, execution_id: str, **more: Any) -> Any:
    body = {"execution_id": execution_id, "name": "go", "waitpoint_key": "go", "payload": {"by": []}} | more
    return partial(penstock.request, "signal.send", body)


async def test_a_sleep(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    body = fence(task) | {"entries": [wait("nap", delay_ms=MINUTE_MS)]}
    parked = await penstock.request("lease.park", body)
    assert parked["outcome"] == "suspended" and parked["wake_at"] >= await now(penstock)
    assert await penstock.request("lease.park", body) == parked  # the reply was lost
    record = await penstock.get(x)
    assert (record["state"], record["reason"]) == ("suspended", "delay")
    penstock.move_clock(MINUTE_MS + 1)
    await penstock.reaches(x, "ready")
    event = await last(penstock, x)
    assert (event["event"], event["reason"]) == ("resumed", "delay")
    assert event["data"] == {"key": "wait:nap", "ended_by": "time"}
    again = await penstock.begin()
    [slept] = again["journal"]["items"]
    assert (slept["status"], slept["ended_by"], again["resumed"]) == ("done", "time", True)
    assert (await park(penstock, again, wait("nap", delay_ms=MINUTE_MS)))["outcome"] == "already_satisfied"


async def test_a_time_survives_a_lost_lease_and_a_new_attempt(penstock: RunningPenstock) -> None:
    task = await running(penstock, max_attempts=2)
    stored = await append(penstock, task, wait("nap", delay_ms=HOUR_MS), wait("sig", signal=GO))
    until = stored["results"][0]["entry"]["until"]
    await outcome(penstock, "fail", task, reason="r", retry_after_ms=0)
    assert (await send(penstock, task["execution_id"])())["effect"] == "recorded"
    await penstock.reaches(task["execution_id"], "ready")
    again = await penstock.begin()
    nap, sig = again["journal"]["items"]
    assert (nap["until"], nap["status"]) == (until, "waiting")
    assert (sig["status"], sig["signals"][0]["payload"]) == ("done", {"by": []})
    parked = await park(penstock, again, wait("nap", delay_ms=HOUR_MS))
    assert parked == {"outcome": "suspended", "wake_at": until}


async def test_signals(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    two = {"waitpoint_key": "go", "condition": {"count": 2, "of": [{"name": "go"}]}}
    await park(penstock, task, wait("sig", signal=two, delay_ms=HOUR_MS))
    assert (await penstock.get(x))["reason"] == "signal"
    assert (await send(penstock, x, signal_id="one")())["effect"] == "recorded"
    told = await penstock.request("execution.explain", {"execution_id": x})
    assert "1 more of 'go' at waitpoint 'go'" in told["explanation"]
    assert told["waiting_for"]["waitpoint_keys"] == ["go"]
    assert (await send(penstock, x, signal_id="two", payload=2)())["effect"] == "resumed"
    assert await send(penstock, x, signal_id="two")() if False else True
    again = await penstock.begin()
    [found] = again["journal"]["items"]
    assert [(s["signal_id"], s["name"], s["payload"]) for s in found["signals"]] == [
        ("one", "go", {"by": []}),
        ("two", "go", 2),
    ]
    assert found["ended_by"] == "signal"


async def test_a_signal_that_does_not_come(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    await park(penstock, task, wait("sig", signal=GO, delay_ms=MINUTE_MS))
    penstock.move_clock(MINUTE_MS + 1)
    await penstock.reaches(x, "ready")
    found = await entry(penstock, x, "wait:sig")
    assert (found["status"], found["ended_by"], found.get("signals")) == ("done", "time", None)
    error = await penstock.refused("signal.send", {"execution_id": x, "name": "go"})
    assert error.code == "waitpoint_not_found"  # nobody waits any more


async def test_a_pending_waitpoint_is_taken_over_with_its_signals(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    made = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "go"})
    await penstock.request("signal.deliver", {"token": made["token"], "name": "go", "payload": 7})
    parked = await park(penstock, task, wait("sig", signal=GO))
    assert parked["outcome"] == "already_satisfied"
    assert parked["items"][0]["signals"][0]["payload"] == 7
    assert parked["items"][0]["waitpoint_id"] == made["waitpoint_id"]
    assert (await penstock.get(task["execution_id"]))["state"] == "running"


async def test_two_entries_do_not_wait_at_one_waitpoint(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    body = fence(task) | {"entries": [wait("a", signal=GO), wait("b", signal=GO)]}
    error = await penstock.refused("lease.park", body)
    assert (error.code, error.detail["field"]) == ("invalid_request", "waitpoint_key")
    assert await journal(penstock, task["execution_id"]) == []
    canceled = wait("a", status="canceled")
    await append(penstock, task, wait("a", signal=GO))
    await append(penstock, task, canceled)  # frees the key
    assert (await park(penstock, task, wait("b", signal=GO)))["outcome"] == "suspended"


@pytest.mark.parametrize("ends", ["complete", "fail", "cancel"])
async def test_a_child(penstock: RunningPenstock, ends: str) -> None:
    task = await running(penstock, namespace="n1")
    x = task["execution_id"]
    stored = await append(penstock, task, child(concurrency_key="one"))
    child_id = stored["results"][0]["entry"]["child_id"]
    repeat = await append(penstock, task, child(concurrency_key="one"))
    assert repeat["results"][0]["entry"]["child_id"] == child_id
    assert len((await penstock.request("execution.list", {"lane": "kids"}))["items"]) == 1
    record = await penstock.get(child_id)
    assert (record["parent_id"], record["namespace"]) == (x, "n1")
    assert (await penstock.request("lease.park", fence(task) | {"keys": ["wait:kid"]}))[
        "outcome"
    ] == "suspended"
    assert (await penstock.get(x))["reason"] == "children"
    if ends == "cancel":
        await penstock.request("execution.cancel", {"execution_id": child_id})
    else:
        kid = await penstock.begin(lanes=["kids"])
        more = (
            {"result": {"r": []}}
            if ends == "complete"
            else {"reason": "broken", "category": "disk", "retryable": False}
        )
        await outcome(penstock, ends, kid, **more)
    again = await penstock.begin()
    [found] = again["journal"]["items"]
    assert found["ended_by"] == "child" and found["child_id"] == child_id
    if ends == "complete":
        assert (found["status"], found["result"]) == ("done", {"r": []})
    else:
        category, reason = ("disk", "broken") if ends == "fail" else ("canceled", "canceled")
        assert found["status"] == "failed" and found["error"]["category"] == category
        assert reason in found["error"]["reason"] or ends == "cancel"


async def test_all_of_several_kinds(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    await park(penstock, task, wait("nap", delay_ms=MINUTE_MS), wait("sig", signal=GO), child(), mode="all")
    assert (await penstock.get(x))["reason"] == "waits"
    told = await penstock.request("execution.explain", {"execution_id": x})
    assert told["waiting_for"]["kind"] == "waits" and told["waiting_for"]["waits"] == 3
    await outcome(penstock, "complete", await penstock.begin(lanes=["kids"]), result=1)
    await send(penstock, x)()
    assert (await penstock.get(x))["state"] == "suspended"
    penstock.move_clock(MINUTE_MS + 1)
    await penstock.reaches(x, "ready")
    assert {each["ended_by"] for each in await journal(penstock, x)} == {"time", "signal", "child"}
    assert (await last(penstock, x))["data"] == {"key": "wait:nap", "ended_by": "time"}


async def test_any_of_several(penstock: RunningPenstock) -> None:
    """The first one resumes; the others go on, and end whether the execution runs or waits."""
    task = await running(penstock)
    x = task["execution_id"]
    waits = [wait("nap", delay_ms=MINUTE_MS), wait("sig", signal=GO), child()]
    await park(penstock, task, *waits)
    await outcome(penstock, "complete", await penstock.begin(lanes=["kids"]), result=1)
    assert (await last(penstock, x))["data"] == {"key": "wait:kid", "ended_by": "child"}
    again = await penstock.begin()
    assert (await send(penstock, x)())["effect"] == "recorded"  # it runs
    found = await park(penstock, again, *waits)
    assert found["outcome"] == "already_satisfied"
    assert [each["key"] for each in found["items"]] == ["wait:sig", "wait:kid"]
    assert (await penstock.request("lease.park", fence(again) | {"keys": ["wait:nap"]}))[
        "outcome"
    ] == "suspended"
    penstock.move_clock(MINUTE_MS + 1)
    await penstock.reaches(x, "ready")


async def test_a_retry_waits_and_stays_to_be_run(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    failed = step(
        "a", None, status="retry", attempt=2, delay_ms=MINUTE_MS, error={"category": "net", "reason": "r"}
    )
    assert (await park(penstock, task, failed))["outcome"] == "suspended"
    penstock.move_clock(MINUTE_MS + 1)
    await penstock.reaches(x, "ready")
    again = await penstock.begin()
    [found] = again["journal"]["items"]
    assert (found["status"], found["attempt"], found["error"]["category"]) == ("retry", 2, "net")
    assert again["attempt_index"] == 1
    await append(penstock, again, step("a", 5))
    assert (await entry(penstock, x, "step:a"))["result"] == 5


async def test_an_operator_ends_the_waits(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    await park(penstock, task, wait("nap", delay_ms=HOUR_MS), wait("sig", signal=GO), child(), mode="all")
    await penstock.request("execution.resume", {"execution_id": x, "reason": "enough"})
    again = await penstock.begin()
    ended = {each["key"]: each.get("ended_by") for each in again["journal"]["items"]}
    assert ended == {"wait:nap": "operator", "wait:sig": "operator", "wait:kid": None}
    await park(penstock, again, wait("nap2", delay_ms=HOUR_MS))
    await penstock.request("execution.run_now", {"execution_id": x})
    assert (await entry(penstock, x, "wait:nap2"))["ended_by"] == "operator"


async def test_a_decision_for_an_operator(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    hold = {"code": "journal_mismatch", "key": "step:a", "message": "expected c1, got c2"}
    body = fence(task) | {"hold": hold}
    assert await penstock.request("lease.park", body) == {"outcome": "suspended"}
    assert await penstock.request("lease.park", body) == {"outcome": "suspended"}
    told = await penstock.request("execution.explain", {"execution_id": x})
    assert "journal_mismatch at 'step:a': expected c1, got c2" in told["explanation"]
    assert told["waiting_for"] == {"kind": "operator", "code": "journal_mismatch", "key": "step:a"}
    event = await last(penstock, x)
    assert (event["reason"], event["data"]["key"]) == ("journal_mismatch", "step:a")
    await penstock.request("execution.resume", {"execution_id": x})
    again = await penstock.begin()
    assert again["attempt_index"] == 1
    error = await penstock.refused("lease.park", fence(again) | {"hold": hold, "keys": ["k"]})
    assert error.detail["field"] == "hold"


async def test_wrong_parks(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    error = await penstock.refused("lease.park", fence(task))
    assert (error.code, error.detail["field"]) == ("invalid_request", "keys")
    error = await penstock.refused("lease.park", fence(task) | {"keys": ["wait:nobody"]})
    assert (error.code, error.detail) == ("journal_entry_not_found", {"key": "wait:nobody"})
    naps = [wait(f"nap{n}", delay_ms=HOUR_MS) for n in range(101)]
    error = await penstock.refused("lease.park", fence(task) | {"entries": naps})
    assert error.code == "invalid_request"
    assert await journal(penstock, task["execution_id"]) == []
    await outcome(penstock, "complete", task)


async def test_a_cancelled_park_ends(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    body = {"execution_id": task["execution_id"], "grace_ms": HOUR_MS}
    await penstock.request("execution.cancel", body)
    assert await park(penstock, task, child()) == {"outcome": "canceled"}
    assert (await penstock.request("execution.list", {"lane": "kids"}))["items"] == []
    task = await running(penstock)
    await park(penstock, task, child())
    await penstock.request("execution.cancel", {"execution_id": task["execution_id"]})
    [kid] = (await penstock.request("execution.list", {"lane": "kids"}))["items"]
    await penstock.reaches(kid["execution_id"], "canceled")


# -- races -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
class TestRaces:
    async def test_a_park_and_its_signal(self, penstock: RunningPenstock, order: str) -> None:
        """The signal is there already, or it resumes: it is never lost."""
        for _ in rounds(order):
            task = await running(penstock)
            x = task["execution_id"]
            await append(penstock, task, wait("sig", signal=GO))
            body = fence(task) | {"keys": ["wait:sig"]}
            sent, parked = await race(order, send(penstock, x), partial(penstock.request, "lease.park", body))
            pair = (sent["effect"], parked["outcome"])
            expected = {"first": ("recorded", "already_satisfied"), "second": ("resumed", "suspended")}
            assert pair in ([expected[order]] if order in expected else expected.values())
            if parked["outcome"] == "suspended":
                task = await penstock.begin()
            assert (await entry(penstock, x, "wait:sig"))["ended_by"] == "signal"
            await outcome(penstock, "complete", task)

    async def test_a_park_and_the_end_of_its_child(self, penstock: RunningPenstock, order: str) -> None:
        for _ in rounds(order):
            task = await running(penstock)
            x = task["execution_id"]
            await append(penstock, task, child())
            kid = await penstock.begin(lanes=["kids"])
            body = fence(task) | {"keys": ["wait:kid"]}
            _, parked = await race(
                order,
                partial(outcome, penstock, "complete", kid, result=3),
                partial(penstock.request, "lease.park", body),
            )
            if order != "together":
                assert parked["outcome"] == {"first": "already_satisfied", "second": "suspended"}[order]
            if parked["outcome"] == "suspended":
                task = await penstock.begin()
            assert (await entry(penstock, x, "wait:kid"))["result"] == 3
            await outcome(penstock, "complete", task)

    async def test_a_signal_and_its_timeout(self, penstock: RunningPenstock, order: str) -> None:
        for _ in rounds(order):
            task = await running(penstock)
            x = task["execution_id"]
            await park(penstock, task, wait("sig", signal=GO, delay_ms=MINUTE_MS))

            async def time_passes(execution_id: str = x) -> Any:
                penstock.move_clock(MINUTE_MS + 1)
                return await penstock.reaches(execution_id, "ready")

            sent, _ = await race(order, send(penstock, x), time_passes)
            resumed = not isinstance(sent, PenstockError) and sent["effect"] == "resumed"
            if order != "together":
                assert resumed == (order == "first")
            found = await entry(penstock, x, "wait:sig")
            assert found["ended_by"] == ("signal" if resumed else "time")
            assert (await names(penstock, x)).count("resumed") == 1
            await outcome(penstock, "complete", await penstock.begin())

    async def test_an_append_and_the_end_of_its_lease(self, penstock: RunningPenstock, order: str) -> None:
        """What is answered as stored is there for the next worker; what is refused is not."""
        for _ in rounds(order):
            task = await running(penstock)
            x = task["execution_id"]
            stored, _ = await race(
                order,
                partial(append, penstock, task, step("a", 1)),
                partial(penstock.loses_its_lease, x),
            )
            kept = not isinstance(stored, PenstockError)
            if order != "together":
                assert kept == (order == "first")
            again = await penstock.begin()
            assert [e["key"] for e in (again["journal"] or {}).get("items", [])] == (
                ["step:a"] if kept else []
            )
            await outcome(penstock, "complete", again)

    async def test_a_park_and_a_cancel(self, penstock: RunningPenstock, order: str) -> None:
        for _ in rounds(order):
            task = await running(penstock)
            x = task["execution_id"]
            body = {"execution_id": x, "grace_ms": HOUR_MS}
            parked, _ = await race(
                order,
                partial(park, penstock, task, wait("sig", signal=GO)),
                partial(penstock.request, "execution.cancel", body),
            )
            assert parked["outcome"] in ("suspended", "canceled")
            await penstock.reaches(x, "canceled")
            assert (await penstock.request("waitpoint.list", {"execution_id": x, "status": "active"}))[
                "items"
            ] == []

    async def test_a_fork_and_an_append(self, penstock: RunningPenstock, order: str) -> None:
        """A fork of what runs has all of an append, or none of it."""
        for _ in rounds(order):
            task = await running(penstock)
            x = task["execution_id"]
            await append(penstock, task, step("a", 1))
            more = [step(f"s{n}", "x" * 100) for n in range(20)]
            _, forked = await race(
                order,
                partial(append, penstock, task, *more),
                partial(penstock.request, "execution.fork", {"execution_id": x}),
            )
            copied = len(await journal(penstock, forked["execution_id"]))
            assert copied == forked["entries"] and copied in (1, 21)
            if order != "together":
                assert copied == {"first": 21, "second": 1}[order]
            await outcome(penstock, "complete", task)
            await penstock.request("execution.cancel", {"execution_id": forked["execution_id"]})
