"""lane.stats and failure.groups: what happened is counted, by lane and minute, and by cause."""

import asyncio
from typing import Any

from running_penstock import RunningPenstock, fence


async def stats(penstock: RunningPenstock, lane: str | None = None) -> dict[str, Any]:
    return await penstock.request("lane.stats", {} if lane is None else {"lane": lane})


async def groups(penstock: RunningPenstock, **filters: Any) -> list[dict[str, Any]]:
    return (await penstock.request("failure.groups", filters))["items"]


async def work(penstock: RunningPenstock, lane: str, reasons: list[str | None], **spec: Any) -> list[str]:
    """Create an execution for each reason, and let it fail for this reason; for None it completes."""
    made = []
    for reason in reasons:
        made.append(await penstock.create(lane=lane, **spec))
        task = await penstock.begin(lanes=[lane])
        if reason is None:
            await penstock.request("lease.complete", fence(task))
        else:
            failure = {"reason": reason, "category": "oops", "retryable": True}
            await penstock.request("lease.fail", fence(task) | failure)
    return made


async def test_what_happens_in_a_lane_is_counted(penstock: RunningPenstock) -> None:
    await work(penstock, "a", [None, None, "broken"])
    await work(penstock, "b", [None])
    await work(penstock, "b", ["again"], max_attempts=2)
    canceled = await penstock.create(lane="b")
    await penstock.request("execution.cancel", {"execution_id": canceled})
    both = await penstock.until(
        lambda: stats(penstock), lambda seen: seen["last_15m"]["canceled"] == 1, "the counts"
    )
    a, b = await asyncio.gather(stats(penstock, "a"), stats(penstock, "b"))
    names = ("created", "started", "completed", "failed", "canceled", "retried", "reclaimed")
    for seen, expected in (
        (both, (6, 5, 3, 1, 1, 1, 0)),
        (a, (3, 3, 2, 1, 0, 0, 0)),
        (b, (3, 2, 1, 0, 1, 1, 0)),
    ):
        for span in (seen["last_15m"], seen["last_24h"]):
            assert tuple(span[name] for name in names) == expected
        for name, count in zip(names, expected, strict=True):
            assert sum(minute[name] for minute in seen["minutes"]) == count
    assert (a["last_15m"]["wait"]["count"], a["last_15m"]["run"]["count"]) == (3, 3)
    assert 0 <= a["last_15m"]["wait"]["p50"] <= a["last_15m"]["wait"]["p99"] < 60_000
    nowhere = await stats(penstock, "nowhere")
    assert (nowhere["minutes"], nowhere["last_24h"]["created"]) == ([], 0)
    # What was long ago does not count any more.
    penstock.move_clock(16 * 60_000)
    later = await penstock.until(
        lambda: stats(penstock, "a"), lambda seen: seen["last_15m"]["created"] == 0, "a quarter later"
    )
    assert later["last_24h"]["created"] == 3
    penstock.move_clock(24 * 3_600_000)
    await penstock.until(
        lambda: stats(penstock, "a"), lambda seen: seen["last_24h"]["created"] == 0, "a day later"
    )


async def test_another_relay_goes_on(penstock: RunningPenstock) -> None:
    """The new relay has not seen the events `created`, and adds to what the first has written."""
    waiting = await penstock.create(lane="a")
    await work(penstock, "b", [None])
    await penstock.until(lambda: stats(penstock), lambda seen: seen["last_15m"]["created"] == 2, "two")
    await penstock.running["audit-relay"].stop()
    await penstock.start_service("audit-relay")
    task = await penstock.begin(lanes=["a"])
    assert task["execution_id"] == waiting
    await penstock.request("lease.complete", fence(task))
    a = await penstock.until(
        lambda: stats(penstock, "a"), lambda seen: seen["last_15m"]["completed"] == 1, "the end"
    )
    assert (a["last_15m"]["created"], a["last_15m"]["started"]) == (1, 1)


async def test_failures_are_grouped_by_cause_and_found_by_group(penstock: RunningPenstock) -> None:
    reasons = [f"order {n} of 'customer {n}' is gone" for n in (4, 17)]
    made = await work(penstock, "a", [*reasons, "disk full"], kind="ship")
    retried = await work(penstock, "a", ["order 5 of 'x' is gone"], kind="ship", max_attempts=2)
    found = await penstock.until(
        lambda: groups(penstock), lambda seen: sum(each["retried"] for each in seen) == 1, "the groups"
    )
    by_reason = {each["reason"]: each for each in found}
    gone = by_reason["order <n> of <text> is gone"]
    assert (gone["kind"], gone["category"], gone["failed"], gone["retried"]) == ("ship", "oops", 2, 1)
    assert (by_reason["disk full"]["failed"], len(by_reason)) == (1, 2)
    assert gone["sample_execution_id"] in [*made[:2], *retried]
    assert gone["first_at"] <= gone["last_at"]
    assert await groups(penstock, kind="ship", category="oops", limit=1) == found[:1]
    assert await groups(penstock, kind="other") == []
    search = {"filter": {"failure_group": gone["group"]}}
    rows = (await penstock.request("execution.search", search))["items"]
    assert [row["execution_id"] for row in rows] == made[1::-1]
    for narrower in ({"kind": "sh.*"}, {"namespace": "other"}, {"states": ["ready"]}):
        search["filter"] = {"failure_group": gone["group"], **narrower}
        assert (await penstock.request("execution.search", search))["items"] == []


async def test_failures_without_a_worker_have_their_reason(penstock: RunningPenstock) -> None:
    lost = await penstock.create(max_reclaims=0, kind="lost")
    await penstock.begin()
    penstock.move_clock(60_000)
    await penstock.reaches(lost, "failed")
    (group,) = await penstock.until(lambda: groups(penstock), bool, "the group")
    assert (group["category"], group["reason"]) == ("lease_expired", "the lease was lost <n> times")
    search = {"filter": {"failure_group": group["group"]}}
    assert [row["execution_id"] for row in (await penstock.request("execution.search", search))["items"]] == [
        lost
    ]


async def blocked(penstock: RunningPenstock, **filters: Any) -> list[dict[str, Any]]:
    return (await penstock.request("limits.blocked", filters))["items"]


async def test_a_limit_without_room_says_whom_it_holds_back_and_who_holds_it(
    penstock: RunningPenstock,
) -> None:
    assert await penstock.request("limits.blocked") == {"items": [], "more": False}
    quota = (await penstock.request("quota.create", {"max_concurrent": 1}))["quota_id"]
    spec = {"concurrency_key": "db", "concurrency_limit": 2, "lane": "a"}
    keyed = [await penstock.create(**spec) for _ in range(5)]
    single = [await penstock.create(quota_id=quota, lane="b") for _ in range(2)]

    async def taken() -> list[str]:
        tasks = await penstock.take(10, lanes=["a", "b"], wait_ms=0)
        held.extend(each["execution_id"] for each in tasks)
        return held

    held: list[str] = []
    await penstock.until(taken, lambda found: len(found) == 3, "three leases")
    found = await penstock.until(lambda: blocked(penstock), lambda seen: len(seen) == 2, "two limits")
    key, other = found
    assert (key["kind"], key["id"], key["waiting"], key["lanes"]) == (
        "concurrency_key",
        "default.db",
        3,
        ["a"],
    )
    assert (key["detail"]["running"], key["detail"]["max_concurrent"]) == (2, 2)
    assert set(key["holders"]) == set(keyed) & set(held)
    assert set(key["sample"]) == set(keyed) - set(held)
    assert (other["kind"], other["id"], other["waiting"]) == ("quota", quota, 1)
    assert set(other["holders"]) == set(single) & set(held)
    assert await blocked(penstock, lane="b") == [other]
    one = await penstock.request("limits.blocked", {"limit": 1})
    assert (len(one["items"]), one["more"]) == (1, True)
