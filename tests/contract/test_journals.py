"""Journals over NATS: what a worker stores, what the next one finds, and what is refused."""

from typing import Any

from journals import append, journal, step
from lifecycles import names, outcome, running
from penstock.errors import PenstockError
from running_penstock import NOWHERE, RunningPenstock, fence


async def test_the_next_lease_finds_what_was_stored(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    assert task["journal"] is None
    assert (await penstock.request("journal.open", fence(task)))["mode"] == "new"
    result = {"empty": [], "big": 2**63 + 1, "text": "ä\u0000/"}
    failure = {"category": "card", "reason": "declined", "type": "CardError"}
    stored = await append(
        penstock,
        task,
        step("charge", result, code="c1", input_digest="d1", attempt=3),
        step("ship", status="failed", result=None, error=failure),
        step("pack", status="started"),
    )
    assert [each["outcome"] for each in stored["results"]] == ["stored"] * 3
    await penstock.loses_its_lease(task["execution_id"])
    again = await penstock.begin()
    found = again["journal"]
    assert (found["mode"], found["count"], found["cursor"]) == ("replay", 3, None)
    first, second, third = found["items"]
    assert first | {"at": 0} == {
        "n": 1, "key": "step:charge", "kind": "step", "name": "charge", "status": "done", "attempt": 3, "at": 0,
        "code": "c1", "input_digest": "d1", "result": result,
    }  # fmt: skip
    assert (second["status"], second["error"]) == ("failed", failure)
    assert (third["status"], third.get("attempt", 1)) == ("started", 1)
    assert await journal(penstock, task["execution_id"]) == found["items"]
    assert (await penstock.get(task["execution_id"]))["journal"] == {"entries": 3, "bytes": found["bytes"]}


async def test_what_has_ended_stays(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    await append(penstock, task, step("a", status="started"))
    await append(penstock, task, step("a", 1))
    repeat = await append(penstock, task, step("a", 2), step("b", 3), step("a", status="started"))
    assert [each["outcome"] for each in repeat["results"]] == ["exists", "stored", "exists"]
    assert repeat["results"][0]["entry"]["result"] == 1
    assert [(e["key"], e["n"], e["result"]) for e in await journal(penstock, task["execution_id"])] == [
        ("step:a", 1, 1),
        ("step:b", 2, 3),
    ]


async def test_a_large_journal_comes_in_pages(penstock: RunningPenstock) -> None:
    """300 entries do not come with the task, nor do results of 100 KiB fit into one page."""
    task = await running(penstock)
    for begin in range(0, 300, 100):
        await append(penstock, task, *(step(f"s{n}", "x" * 50) for n in range(begin, begin + 100)))
    await append(penstock, task, *(step(f"big{n}", "y" * 100_000) for n in range(8)))
    await penstock.loses_its_lease(task["execution_id"])
    again = await penstock.begin()
    assert (again["journal"]["items"], again["journal"]["cursor"]) == ([], "0")
    items: list[Any] = []
    cursor, pages = "0", 0
    while cursor is not None:
        page = await penstock.request("journal.open", fence(again) | {"cursor": cursor})
        items += page["items"]
        cursor, pages = page["cursor"], pages + 1
    assert [item["n"] for item in items] == list(range(1, 309))
    assert items[-1]["result"] == "y" * 100_000 and pages > 1


async def test_only_the_holder_of_the_lease_stores(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    await penstock.loses_its_lease(task["execution_id"])
    again = await penstock.begin()
    for verb, body in (
        ("journal.append", {"entries": [step("a", 1)]}),
        ("journal.open", {}),
        ("lease.park", {"entries": [step("w", status="waiting", delay_ms=1)]}),
    ):
        error = await penstock.refused(verb, fence(task) | body)
        assert error.code == "lease_expired" or error.code == "stale_lease", verb
    assert await journal(penstock, task["execution_id"]) == []
    await append(penstock, again, step("a", 2))
    await outcome(penstock, "complete", again)
    error = await penstock.refused("journal.append", fence(again) | {"entries": [step("b", 1)]})
    assert error.code == "execution_not_active"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"key": ""}, "entries[0].key"),
    ({"key": "a\nb"}, "entries[0].key"),
    ({"status": "over"}, "entries[0].status"),
    ({"status": "waiting"}, "entries[0].status"),
    ({"status": "retry"}, "entries[0].status"),
    ({"status": "failed"}, "entries[0].error"),
    ({"delay_ms": 5}, "entries[0].status"),
    ({"status": "waiting", "delay_ms": 5, "until": 5}, "entries[0].delay_ms"),
    ({"status": "waiting", "signal": {}, "child": {"kind": "k"}}, "entries[0].child"),
    ({"status": "waiting", "child": {"kind": "a b"}}, "entries[0].child.kind"),
    ({"status": "waiting", "signal": {"condition": {}}}, "condition"),
    ({"kind": "state", "name": ""}, "entries[0].status"),
]


async def test_wrong_entries(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    for entry, field in WRONG:
        error = await penstock.refused("journal.append", fence(task) | {"entries": [step("a", 1) | entry]})
        assert (error.code, error.detail["field"]) == ("invalid_request", field), entry
    assert await journal(penstock, task["execution_id"]) == []


async def test_a_wrong_entry_hurts_only_its_own_request(penstock: RunningPenstock) -> None:
    one, other = await running(penstock), await running(penstock)
    bad = step("c", status="waiting", child={"kind": "k", "quota_id": NOWHERE})
    replies = await penstock.request(
        "journal.append",
        [fence(one) | {"entries": [step("a", 1), bad]}, fence(other) | {"entries": [step("a", 1)]}],
    )
    assert replies[0]["error"]["code"] == "quota_not_found"
    assert replies[0]["error"]["message"].startswith("entries[1].child")
    assert replies[1]["ok"]["count"] == 1
    assert await journal(penstock, one["execution_id"]) == []


async def test_state_is_read_without_a_worker(penstock: RunningPenstock) -> None:
    def state(name: str, value: Any, attempt: int = 1) -> dict[str, Any]:
        return {
            "key": f"state:{name}", "kind": "state", "name": name, "status": "done", "result": value,
            "attempt": attempt,
        }  # fmt: skip

    task = await running(penstock)
    await append(penstock, task, state("paid", False), state("stage", {"n": []}), step("a", "x" * 600))
    late = await append(penstock, task, state("paid", True, 2), state("stage", "older", 1))
    assert [each["outcome"] for each in late["results"]] == ["stored", "exists"]
    await outcome(penstock, "fail", task, reason="r", retryable=False)
    asked = {"execution_id": task["execution_id"]}
    seen = await penstock.request("execution.query", asked)
    assert seen["state"] == "failed"
    assert {each["name"]: each["value"] for each in seen["items"]} == {"paid": True, "stage": {"n": []}}
    some = await penstock.request("execution.query", asked | {"names": ["stage", "unknown"]})
    assert [each["name"] for each in some["items"]] == ["stage"]
    error = await penstock.refused("execution.query", {"execution_id": NOWHERE})
    assert error.code == "execution_not_found"
    task = await running(penstock)
    await append(penstock, task, *(state(f"s{n}", n) for n in range(100)))
    error = await penstock.refused("journal.append", fence(task) | {"entries": [state("s100", 100)]})
    assert (error.code, error.detail["field"]) == ("invalid_request", "entries")


async def test_one_event_for_all_that_a_request_stores(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    await append(penstock, task, *(step(f"s{n}", n) for n in range(30)))
    await outcome(penstock, "complete", task, journal={"orphans": ["step:old"], "drift": ["step:s1"]})
    page = await penstock.request("execution.history", {"execution_id": task["execution_id"]})
    assert [each["event"] for each in page["items"]] == [
        "created",
        "started",
        "journal_appended",
        "completed",
    ]
    appended, completed = page["items"][2:]
    assert (appended["data"]["n"], len(appended["data"]["keys"])) == (30, 20)
    assert (completed["data"]["orphans"], completed["data"]["drift"]) == (["step:old"], ["step:s1"])


async def test_appends_of_one_tick_are_one_event(penstock: RunningPenstock) -> None:
    """Requests that reach Valkey in one call, as those of a batch do."""
    task = await running(penstock)
    bodies = [fence(task) | {"entries": [step(f"s{n}", n)]} for n in range(5)]
    replies = await penstock.request("journal.append", bodies)
    assert [each["ok"]["count"] for each in replies] == [1, 2, 3, 4, 5]
    assert await names(penstock, task["execution_id"]) == ["created", "started", "journal_appended"]


async def test_a_journal_leaves_with_its_execution(penstock: RunningPenstock) -> None:
    task = await running(penstock, retention_ms=60_000)
    await append(penstock, task, step("a", "x" * 2000), version="1")
    await outcome(penstock, "complete", task)
    assert any(":j:" in key for key in await penstock.keys())
    penstock.move_clock(60_001)

    async def gone() -> PenstockError | None:
        try:
            await penstock.get(task["execution_id"])
        except PenstockError as error:
            return error
        return None

    await penstock.until(gone, lambda error: error is not None, "retention")
    assert not any(":j:" in key or ":version:" in key for key in await penstock.keys())


async def test_a_journal_has_bounds(nats_url: str, valkey_url: str) -> None:
    bounds = {"journal_max_entries": 10, "journal_max_bytes": 4096}
    async with RunningPenstock.open(nats_url, valkey_url, **bounds) as penstock:
        task = await running(penstock)
        x = task["execution_id"]
        await append(penstock, task, *(step(f"s{n}", n) for n in range(8)))
        error = await penstock.refused(
            "journal.append", fence(task) | {"entries": [step("a", 1), step("b", 2), step("c", 3)]}
        )
        assert (error.code, error.retryable, error.detail["entries"]) == ("journal_full", False, 11)
        assert len(await journal(penstock, x)) == 8  # all or none
        error = await penstock.refused("journal.append", fence(task) | {"entries": [step("a", "x" * 4096)]})
        assert error.code == "journal_full"
        await append(penstock, task, step("a", 1))  # there is room for this one
        page = await penstock.request("execution.history", {"execution_id": x})
        filling = [each["data"] for each in page["items"] if each["event"] == "journal_filling"]
        assert [(each["pct"], each["entries"]) for each in filling] == [(80, 8)]
        # What the service itself adds, but has no room for, ends the wait as failed.
        kid = {
            "key": "child:kid",
            "kind": "child",
            "status": "waiting",
            "child": {"kind": "k", "lane": "kids"},
        }
        parked = await penstock.request("lease.park", fence(task) | {"entries": [kid]})
        assert parked["outcome"] == "suspended"
        child = await penstock.begin(lanes=["kids"])
        await outcome(penstock, "complete", child, result="y" * 4096)
        again = await penstock.begin()
        ended = again["journal"]["items"][-1]
        assert (ended["status"], ended["error"]["category"]) == ("failed", "journal_full")
