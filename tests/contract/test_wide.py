"""The cost of one FCALL is bounded by the request, not by the stored data. Valkey's SLOWLOG measures the cost."""

import itertools
import re
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from journals import append, step
from penstock.store.caller import MOST
from running_penstock import RunningPenstock, fence
from servers import valkey_server

LIMIT_US = 5000
FULL = MOST
"""The weight of a full FCALL: so many tasks or new executions, each of which may take as long as creating a flow."""
TRIES = 5
LANES = 5000
LIMITS = 4000
EVENTS = 20_000
SETS = 3000
KINDS = 3000
ENTRIES = 9000
MEMBERS = 10_000

numbers = itertools.count()


@pytest.fixture
async def penstock(nats_url: str) -> AsyncIterator[RunningPenstock]:
    with valkey_server() as url:
        async with RunningPenstock.open(nats_url, url, sweep_ms=60_000, progress_events_ms=0) as house:
            yield house


async def calls(penstock: RunningPenstock) -> dict[str, list[int]]:
    """Return the microseconds of each FCALL since the last reset, by function and first operation."""
    store = penstock.running["scheduler"].context.machine.store
    found: dict[str, list[int]] = {}
    for entry in await store.execute("SLOWLOG", "GET", "-1"):
        took, command = entry[2], entry[3]
        if command[0] == b"FCALL":
            name = re.search(rb"[a-z_]{3,}", command[5])
            kind = f"{command[1].decode()} {name[0].decode() if name else '?'}"
            found.setdefault(kind, []).append(took)
    return found


async def stays_quick(penstock: RunningPenstock, work: Callable[[], Awaitable[object]]) -> None:
    """Do the work, and repeat it (TRIES rounds at most) if a kind of call took too long. A busy machine makes one round
    slow; a call that costs too much is slow in each. The slowest tenth of a kind's calls is ignored."""
    store = penstock.running["scheduler"].context.machine.store
    await store.execute("CONFIG", "SET", "slowlog-log-slower-than", "0", "slowlog-max-len", "100000")
    slow: dict[str, int] = {}
    for _ in range(TRIES):
        limit_us = max(LIMIT_US, FULL * await pace_us(penstock))
        await store.execute("SLOWLOG", "RESET")
        await work()
        took = {kind: sorted(all_)[len(all_) * 9 // 10] for kind, all_ in (await calls(penstock)).items()}
        slow = {kind: us for kind, us in took.items() if us > limit_us}
        if not slow:
            return
    raise AssertionError(f"FCALLs took longer than {limit_us} µs: {slow}")


async def pace_us(penstock: RunningPenstock) -> int:
    """Return the median µs of flow.create_mirrored on this machine now: other machines share its processors."""
    store = penstock.running["scheduler"].context.machine.store
    await store.execute("SLOWLOG", "RESET")
    for _ in range(20):
        await penstock.request("flow.create_mirrored", {"controller_id": "c", "goal": "g", "owner": "pace"})
    return statistics.median_low((await calls(penstock))["penstock_mirror_observer create_mirrored"])


async def everything(penstock: RunningPenstock, **filters: Any) -> list[str]:
    """Return the ids on all pages of execution.list."""
    ids: list[str] = []
    cursor = None
    while True:
        page = await penstock.request("execution.list", {**filters, "cursor": cursor, "limit": 100})
        ids += [item["execution_id"] for item in page["items"]]
        cursor = page["cursor"]
        if cursor is None:
            return ids


async def test_lists_over_many_lanes_are_bounded_and_complete(penstock: RunningPenstock) -> None:
    made: list[str] = []
    for start in range(0, LANES, 500):
        specs = [
            {
                "kind": "odd" if n % 7 == 0 else "even",
                "lane": f"lane-{n}",
                "run_at": 2**41 if n % 5 == 0 else None,
            }
            for n in range(start, start + 500)
        ]
        made += [each["ok"]["execution_id"] for each in await penstock.request("execution.create", specs)]
    odd = {execution_id for n, execution_id in enumerate(made) if n % 7 == 0}
    scheduled = {execution_id for n, execution_id in enumerate(made) if n % 5 == 0}

    async def look() -> None:
        assert await everything(penstock) == sorted(made, reverse=True)
        assert set(await everything(penstock, kind="odd")) == odd
        assert set(await everything(penstock, state="scheduled")) == scheduled
        assert await everything(penstock, lane="lane-4321") == [made[4321]]
        assert await everything(penstock, kind="none") == []

    await stays_quick(penstock, look)


async def test_a_freed_slot_wakes_few_of_many_limits_and_all_get_their_turn(
    penstock: RunningPenstock,
) -> None:
    quota = (await penstock.request("quota.create", {"max_concurrent": 1}))["quota_id"]
    for start in range(0, LIMITS, 500):
        specs = [
            {"kind": "k", "quota_id": quota, "concurrency_key": f"c{n}", "concurrency_limit": 1}
            for n in range(start, start + 500)
        ]
        await penstock.request("execution.create", specs)
    store = penstock.running["scheduler"].context.machine.store
    running = (await penstock.take(1, start=True))[0]

    async def blocked() -> int:
        await penstock.take(100, start=True, wait_ms=0)
        return int(await store.execute("ZCARD", f"{penstock.root}:{{0}}:blocked:q/{quota}"))

    await penstock.until(blocked, lambda n: n >= LIMITS - 200, "the queues that stand aside")

    async def work() -> None:
        nonlocal running
        for _ in range(10):
            await penstock.request("lease.complete", {**fence(running), "result": None})
            [running] = await penstock.take(1, start=True, wait_ms=10_000)

    await stays_quick(penstock, work)
    assert LIMITS - await blocked() < 200  # the queues of the other limits are still blocked


async def test_a_long_history_is_read_page_by_page(penstock: RunningPenstock) -> None:
    await penstock.create()
    task = await penstock.begin()
    for start in range(0, EVENTS, 1000):
        reports = [
            {**fence(task), "pct": n % 100, "message": f"step {n}"} for n in range(start, start + 1000)
        ]
        assert all("ok" in each for each in await penstock.request("lease.progress", reports))

    async def look() -> None:
        seen: list[int] = []
        body = {"execution_id": task["execution_id"], "limit": 700, "cursor": None}
        while True:
            page = await penstock.request("execution.history", body)
            assert len(page["items"]) <= 700
            seen += [event["seq"] for event in page["items"]]
            if page["cursor"] is None:
                break
            body["cursor"] = page["cursor"]
        assert seen == list(range(1, EVENTS + 3))  # created, started and the progress events

    await stays_quick(penstock, look)
    for wrong in ("1", "5000000", "123456789000007"):
        body = {"execution_id": task["execution_id"], "cursor": wrong}
        assert (await penstock.refused("execution.history", body)).code == "invalid_request"


async def test_thousands_of_capability_sets_are_found_by_who_can_serve_them(
    penstock: RunningPenstock,
) -> None:
    """Each execution needs a gpu and one of thousands of models; no worker serves most of these models."""

    async def work() -> None:
        run = f"r{next(numbers)}"
        for start in range(0, SETS, 500):
            specs = [
                {"kind": "k", "lane": run, "capabilities": ["gpu", f"{run}-{n}"]}
                for n in range(start, start + 500)
            ]
            await penstock.request("execution.create", specs)
        for n in (0, 1234, SETS - 1):
            has = ["gpu", "other", f"{run}-{n}"]
            assert len(await penstock.take(5, lanes=[run], capabilities=has, wait_ms=0)) == 1
        has = ["gpu", *(f"{run}-{n}" for n in range(10, 41))]
        assert len(await penstock.take(100, lanes=[run], capabilities=has, wait_ms=0)) == 31
        assert await penstock.take(100, lanes=[run], capabilities=["gpu"], wait_ms=0) == []

    await stays_quick(penstock, work)


async def test_thousands_of_sets_that_one_worker_serves(penstock: RunningPenstock) -> None:
    """The sets are all subsets of 12 names. All work is handed out, and the fairness keys take turns."""
    names = [f"n{n}" for n in range(12)]

    async def work() -> None:
        lane = f"r{next(numbers)}"
        sets = [[name for bit, name in enumerate(names) if n >> bit & 1] for n in range(4096)]
        for start in range(0, 4096, 512):
            specs = [
                {"kind": "k", "lane": lane, "capabilities": caps, "fairness_key": f"t{len(caps)}"}
                for caps in sets[start : start + 512]
            ]
            await penstock.request("execution.create", specs)
        taken = 0
        while tasks := await penstock.take(100, lanes=[lane], capabilities=names, wait_ms=0):
            taken += len(tasks)
        assert taken == 4096

    await stays_quick(penstock, work)


async def test_a_flow_of_ten_thousand_members(penstock: RunningPenstock) -> None:
    """One member fans out to 10,000, and 5000 of these fan in to a last one. Some run; then the flow is cancelled."""

    async def make() -> str:
        body = {"controller_id": "c", "owner": "o", "goal": "g", "members": [{"key": "first", "kind": "k"}]}
        flow = await penstock.request("flow.create", body)

        async def add(members: list[dict[str, Any]], edges: list[dict[str, Any]]) -> None:
            nonlocal flow
            body = {"flow_id": flow["flow_id"], "graph_revision": flow["graph_revision"]}
            flow = await penstock.request("flow.add_execution", {**body, "members": members, "edges": edges})

        for start in range(0, MEMBERS, 500):
            keys = [f"m{n}" for n in range(start, start + 500)]
            await add(
                [{"key": key, "kind": "k", "lane": flow["flow_id"]} for key in keys],
                [{"from": "first", "to": key} for key in keys],
            )
        await add([{"key": "last", "kind": "k"}], [{"from": f"m{n}", "to": "last"} for n in range(5000)])
        return str(flow["flow_id"])

    made = [await make() for _ in range(TRIES)]

    async def work() -> None:
        flow_id = made.pop()
        await penstock.request("flow.start", {"flow_id": flow_id})
        await penstock.request("lease.complete", {**fence(await penstock.begin()), "result": None})

        async def depth() -> int:
            items = (await penstock.request("lane.list", {}))["items"]
            return next(int(item["depth"]["ready"]) for item in items if item["lane"] == flow_id)

        await penstock.until(depth, lambda ready: ready == MEMBERS, "the fan-out")
        for _ in range(5):
            tasks = await penstock.take(100, lanes=[flow_id], start=True)
            await penstock.request("lease.complete", [{**fence(each), "result": 1} for each in tasks])
        await penstock.request("flow.cancel", {"flow_id": flow_id, "wait": True})

    await stays_quick(penstock, work)


async def test_thousands_of_kinds_that_a_worker_does_not_take(penstock: RunningPenstock) -> None:
    """They have several tenants, and some a limit. Workers that take a few kinds, a prefix or all find their own."""

    async def work() -> None:
        lane = f"r{next(numbers)}"
        for start in range(0, KINDS, 500):
            specs: list[dict[str, Any]] = [
                {"kind": f"other.k{n}", "lane": lane, "fairness_key": f"t{n % 7}"}
                | ({"concurrency_key": f"{lane}-{n}"} if n % 10 == 0 else {})
                for n in range(start, start + 500)
            ]
            await penstock.request("execution.create", specs)
        await penstock.request("execution.create", [{"kind": f"my.k{n}", "lane": lane} for n in range(100)])
        assert len(await penstock.take(10, lanes=[lane], kinds=["my.k7", "none"], wait_ms=0)) == 1
        assert await penstock.take(10, lanes=[lane], kinds=["none", "nor.*"], wait_ms=0) == []
        taken = 0
        while tasks := await penstock.take(20, lanes=[lane], kinds=["my.*"], wait_ms=0):
            taken += len(tasks)
        assert taken == 99
        names = [f"other.k{n}" for n in range(300)]
        while tasks := await penstock.take(100, lanes=[lane], kinds=names, wait_ms=0):
            taken += len(tasks)
        assert taken == 399
        while tasks := await penstock.take(100, lanes=[lane], wait_ms=0):
            taken += len(tasks)
        assert taken == KINDS + 100 - 1

    await stays_quick(penstock, work)


async def test_forks_of_a_long_journal(penstock: RunningPenstock) -> None:
    """Each call copies a part; the fork is there when it has all of it."""
    x = await penstock.create()
    task = await penstock.begin(lease_ttl_ms=600_000)
    for start in range(0, ENTRIES, 100):
        await append(penstock, task, *(step(f"s{n}", n) for n in range(start, start + 100)))
    body = {
        "execution_id": x,
        "before_key": "step:s8990",
        "edits": [{"key": "step:s5000", "result": "edited"}],
    }

    async def fork() -> None:
        made = await penstock.request("execution.fork", body)
        assert made["entries"] == ENTRIES - 10
        cursor, results = None, []
        while not results or cursor:
            asked = {"execution_id": made["execution_id"], "cursor": cursor, "limit": 100}
            page = await penstock.request("journal.read", asked)
            results += [entry["result"] for entry in page["items"]]
            cursor = page["cursor"]
        assert results == [*range(5000), "edited", *range(5001, ENTRIES - 10)]

    await stays_quick(penstock, fork)
    wrong = body | {"edits": [{"key": "step:s8995", "result": 1}]}
    assert (await penstock.refused("execution.fork", wrong)).code == "journal_entry_not_found"
