"""execution.fork, .query and .versions, pinned versions, and functions that continue as another execution."""

from typing import Any

import pytest

from commands import Cli
from journals import append, journal, step
from lifecycles import HOUR_MS, names, outcome, running
from penstock import Client, PenstockError
from running_penstock import NOWHERE, RunningPenstock, fence


def child(**spec: Any) -> dict[str, Any]:
    return {
        "key": "child:kid",
        "kind": "child",
        "status": "waiting",
        "child": {"kind": "kid", "lane": "kids"} | spec,
    }


async def fork(penstock: RunningPenstock, execution_id: str, **more: Any) -> dict[str, Any]:
    return await penstock.request("execution.fork", {"execution_id": execution_id} | more)


async def test_fork(penstock: RunningPenstock) -> None:
    x = await penstock.create(input={"n": []}, tags={"t": "1"}, lane="l", namespace="n1", max_attempts=3)
    task = await penstock.begin(lanes=["l"])
    state = {"key": "state:s", "kind": "state", "name": "s", "status": "done", "result": 1}
    failed = step("c", status="failed", error={"category": "card", "reason": "declined"})
    started = step("d", status="started")
    await append(
        penstock, task, step("a", 1), state, step("b", "x" * 1000), failed, child(), started, version="1"
    )
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["step:a", "step:b", "step:c"]),
        ({"after_key": "step:b"}, ["step:a", "step:b"]),
        ({"before_key": "step:b"}, ["step:a"]),
        ({"before_key": "step:a"}, []),
    ]
    for body, copied in cases:
        made = await fork(penstock, x, **body)
        assert (made["entries"], made["forked_from"]) == (len(copied), x), body
        assert [each["key"] for each in await journal(penstock, made["execution_id"])] == copied
    record = await penstock.get(made["execution_id"])
    fields = ("kind", "input", "tags", "lane", "namespace", "max_attempts")
    assert [record[name] for name in fields] == [(await penstock.get(x))[name] for name in fields]
    assert (record["forked_from"], record["version"], record["state"]) == (x, None, "ready")
    edited = await fork(penstock, x, input=5, edits=[{"key": "step:c", "result": [7]}])
    entries = await journal(penstock, edited["execution_id"])
    assert (entries[2]["status"], entries[2]["result"], entries[2].get("error")) == ("done", [7], None)
    assert (await penstock.get(edited["execution_id"]))["input"] == 5
    assert [each["key"] for each in await journal(penstock, x)][:3] == ["step:a", "state:s", "step:b"]
    assert (await penstock.get(x))["state"] == "running"
    ready = {each["execution_id"] for each in await penstock.take(10, lanes=["l"], start=True)}
    assert edited["execution_id"] in ready and len(ready) == 5


async def test_wrong_forks(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    await append(penstock, task, step("a", 1), step("b", 2))
    count = len((await penstock.request("execution.list", {}))["items"])
    for body, code in (
        ({"execution_id": NOWHERE}, "execution_not_found"),
        ({"after_key": "step:z"}, "journal_entry_not_found"),
        ({"before_key": "step:b", "edits": [{"key": "step:b", "result": 1}]}, "journal_entry_not_found"),
        ({"after_key": "step:a", "before_key": "step:b"}, "invalid_request"),
    ):
        error = await penstock.refused("execution.fork", {"execution_id": x} | body)
        assert error.code == code, body
    assert len((await penstock.request("execution.list", {}))["items"]) == count
    await penstock.request("lane.drain", {"lane": "default"})
    assert (await penstock.refused("execution.fork", {"execution_id": x})).code == "execution_not_eligible"


async def test_a_fork_with_an_idempotency_key(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    await append(penstock, task, step("a", 1))
    body = {"execution_id": task["execution_id"], "after_key": "step:a", "idempotency_key": "k"}
    first = await penstock.request("execution.fork", body)
    assert await penstock.request("execution.fork", body) == first | {"duplicate": True}
    error = await penstock.refused("execution.fork", body | {"after_key": None, "before_key": "step:a"})
    assert error.code == "idempotency_conflict"


async def test_continue_as(penstock: RunningPenstock) -> None:
    await penstock.create(unique_key="u", tags={"t": "1"}, priority=5)
    task = await penstock.begin()
    await append(penstock, task, step("a", 1))
    body = {"continues": {"input": {"page": []}}, "result": 1}
    done = await outcome(penstock, "complete", task, **body)
    assert await outcome(penstock, "complete", task, **body) == done
    following = await penstock.get(done["continued_by"])
    assert (following["continues"], following["input"], following["tags"], following["priority"]) == (
        task["execution_id"],
        {"page": []},
        {"t": "1"},
        5,
    )
    before = await penstock.get(task["execution_id"])
    assert (before["state"], before["continued_by"]) == ("completed", following["execution_id"])
    assert following["journal"] is None
    twin = await penstock.request("execution.create", {"kind": "test.job", "unique_key": "u"})
    assert (twin["execution_id"], twin["duplicate"]) == (following["execution_id"], True)


async def test_a_child_that_continues_ends_with_its_last(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    await penstock.request("lease.park", fence(task) | {"entries": [child()]})
    kid = await penstock.begin(lanes=["kids"])
    done = await outcome(penstock, "complete", kid, result=1, continues={"input": 2})
    assert (await penstock.get(x))["state"] == "suspended"
    kid = await penstock.begin(lanes=["kids"])
    assert (kid["execution_id"], kid["input"]) == (done["continued_by"], 2)
    await outcome(penstock, "complete", kid, result="last")
    again = await penstock.begin()
    [found] = again["journal"]["items"]
    assert (found["result"], found["child_id"]) == ("last", kid["execution_id"])


async def test_versions(penstock: RunningPenstock) -> None:
    tasks = [await running(penstock) for _ in range(6)]
    for n, task in enumerate(tasks):
        await append(penstock, task, step("a", 1), version="1" if n < 4 else "2")
    await append(penstock, tasks[0], step("b", 1), version="3")  # the first one stays
    assert (await penstock.get(tasks[0]["execution_id"]))["version"] == "1"

    async def versions() -> dict[str, int]:
        page = await penstock.request("execution.versions", {"kind": "test.job"})
        return {each["version"]: each["open"] for each in page["items"]}

    assert await versions() == {"1": 4, "2": 2}
    page = await penstock.request("execution.versions", {"kind": "test.job"})
    assert page["items"][0]["oldest"] == tasks[0]["execution_id"]
    for task in tasks[4:]:
        await outcome(penstock, "complete", task)
    assert await versions() == {"1": 4}
    assert (await penstock.request("execution.versions", {"kind": "other"}))["items"] == []


async def test_a_pinned_execution_goes_to_workers_that_take_its_version(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    await append(penstock, task, step("a", 1), version="2", pin=True)
    nap = {"key": "nap", "kind": "sleep", "status": "waiting", "delay_ms": 1}
    await penstock.request("lease.park", fence(task) | {"entries": [nap]})
    await penstock.reaches(x, "ready")
    await penstock.request("worker.register", {"worker_id": "new", "kinds": ["test.job", "test.job@3"]})
    assert await penstock.take(kinds=["test.job", "test.job@3"], wait_ms=0) == []
    told = await penstock.request("execution.explain", {"execution_id": x})
    assert told["explanation"].startswith("It needs 'test.job@2', which no live worker has")
    await penstock.request("worker.register", {"worker_id": "old", "kinds": ["test.job@2"]})
    told = await penstock.request("execution.explain", {"execution_id": x})
    assert "1 of 2 workers" in told["explanation"]
    [again] = await penstock.take(kinds=["test.job@2"], start=True)
    assert (again["execution_id"], again["kind"], again["journal"]["version"]) == (x, "test.job", "2")
    await penstock.request("lease.revoke", {"execution_id": x})
    [again] = await penstock.take(kinds=["test.*"], start=True)  # a prefix takes every version
    assert await names(penstock, x) == [
        "created", "started", "version_recorded", "journal_appended", "journal_appended", "suspended", "resumed",
        "started", "reclaimed", "started",
    ]  # fmt: skip
    await outcome(penstock, "complete", again)


async def test_a_parked_function_does_not_take_part_in_its_lanes_limits(penstock: RunningPenstock) -> None:
    """Its slot is free while it waits, as that of every suspended execution."""
    spec = {"concurrency_key": "one"}
    task = await running(penstock, **spec)
    other = await penstock.create(**spec)
    nap = {"key": "nap", "kind": "sleep", "status": "waiting", "delay_ms": HOUR_MS}
    await penstock.request("lease.park", fence(task) | {"entries": [nap]})
    again = await penstock.begin()
    assert again["execution_id"] == other


async def test_the_client(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    state = {"key": "state:s", "kind": "state", "name": "s", "status": "done", "result": [1]}
    await append(penstock, task, step("a", {"x": 1}), state, version="1")
    client: Client = await penstock.client()
    assert [(entry.key, entry.result) async for entry in client.journals.read(x)] == [
        ("step:a", {"x": 1}),
        ("state:s", [1]),
    ]
    assert await client.journals.state(x) == {"s": [1]} == await client.journals.state(x, "s")
    assert [(each.version, each.open) for each in await client.journals.versions("test.job")] == [("1", 1)]
    forked = await client.journals.fork(x, edits={"step:a": 2}, input=3)
    assert [entry.result async for entry in client.journals.read(forked.execution_id)] == [2]
    assert (await forked.get()).input == 3
    with pytest.raises(PenstockError, match="journal_entry_not_found"):
        await client.journals.fork(x, after_key="step:b")


async def test_the_command(penstock: RunningPenstock, cli: Cli) -> None:
    task = await running(penstock)
    x = task["execution_id"]
    await append(
        penstock,
        task,
        step("a", {"x": "y" * 100}),
        step("b", status="failed", error={"category": "net"}),
        child(),
        version="7",
    )
    shown = await cli("journal", x)
    assert shown.code == 0 and "step:a" in shown.out and "…" in shown.out and "(net)" in shown.out
    assert [each["key"] for each in (await cli("journal", x, "--json")).json["items"]] == [
        "step:a",
        "step:b",
        "child:kid",
    ]
    made = await cli("fork", x, "--after", "step:b", "--edit", 'step:a={"x": 1}')
    assert made.code == 0
    forked = await journal(penstock, made.out.strip())
    assert [each["result"] for each in forked] == [{"x": 1}, None]
    assert "7" in (await cli("versions", "test.job")).out
    got = await cli("get", x)
    assert "3 entries" in got.out
    wrong = await cli("fork", x, "--after", "step:z")
    assert wrong.code == 1 and "journal_entry_not_found" in wrong.err
    assert (await cli("fork", x, "--edit", "nothing")).code == 2
