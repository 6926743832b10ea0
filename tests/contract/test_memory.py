"""A full Valkey refuses operations that add data but runs those that end or free, so it recovers by itself. And what a
suspended durable function takes of it."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.errors import PenstockError
from running_penstock import RunningPenstock, fence
from servers import valkey_server

ROOM = 6 * 1024 * 1024
BIG = "x" * 60_000
DAY_MS = 24 * 3_600_000


@pytest.fixture
async def small(nats_url: str) -> AsyncIterator[RunningPenstock]:
    with valkey_server() as url:
        async with RunningPenstock.open(nats_url, url) as house:
            yield house


async def fill(penstock: RunningPenstock) -> PenstockError:
    """Create executions until Valkey has no room for more. Return the refusal."""
    store = penstock.running["scheduler"].context.machine.store
    info = (await store.execute("INFO", "memory")).decode()
    used = int(info.split("used_memory:")[1].split()[0])
    await store.execute("CONFIG", "SET", "maxmemory", str(used + ROOM))
    while True:
        try:
            await penstock.create(input=BIG)
        except PenstockError as error:
            return error


async def test_what_ends_and_frees_runs_when_memory_is_full(small: RunningPenstock) -> None:
    running = await small.create()
    [task] = await small.take(start=True)
    refusal = await fill(small)
    assert refusal.code == "valkey_unavailable" and refusal.retry_after_ms
    assert "memory" in refusal.message
    for verb, body in (
        ("flow.create", {"controller_id": "c", "owner": "o", "goal": "g"}),
        ("quota.create", {"max_concurrent": 1}),
        ("budget.create", {"dimensions": {"n": {"hard": 1}}}),
        ("schedule.create", {"every_ms": 60_000, "execution": {"kind": "k"}}),
        ("flow.create_mirrored", {"controller_id": "c", "owner": "o", "goal": "g"}),
    ):
        error = await small.refused(verb, body)
        assert (error.code, "memory" in error.message) == ("valkey_unavailable", True), verb
    assert all(service.health.ready for service in small.running.values())

    assert (await small.get(running))["state"] == "running"
    # Workers go on: leases are renewed and end, and ready work is handed out.
    await small.request("lease.renew", fence(task))
    await small.request("lease.complete", {**fence(task), "result": 1})
    await small.reaches(running, "completed")
    while tasks := await small.take(20, start=True, wait_ms=0):
        done = [{**fence(each), "result": None} for each in tasks]
        assert all("ok" in each for each in await small.request("lease.complete", done))

    # Retention frees ended executions, and the relay frees events it has published; then there is room again.
    small.move_clock(8 * DAY_MS)

    async def create() -> bool:
        try:
            return bool(await small.create(input=BIG))
        except PenstockError as error:
            assert error.code == "valkey_unavailable"
            return False

    await small.until(create, bool, "room for another execution")


MILLION_IN_BYTES = 1.2 * 2**30
FUNCTIONS = 480  # the tables of Valkey's sorted sets are nearly full then, as with a million
SLEEP = {"key": "sleep:nap", "kind": "sleep", "name": "nap", "status": "waiting", "delay_ms": 21 * DAY_MS}
SIGNAL = {
    "key": "signal:approved",
    "kind": "signal",
    "name": "approved",
    "status": "waiting",
    "signal": {"waitpoint_key": "approved", "condition": {"name": "approved"}},
}


@pytest.mark.parametrize("wait", [SLEEP, SIGNAL, SIGNAL | {"delay_ms": DAY_MS}])
async def test_a_million_suspended_functions_fit(small: RunningPenstock, wait: dict[str, Any]) -> None:
    """Measured in what Valkey has allocated for all keys, which depends on nothing but what is stored."""
    store = small.running["scheduler"].context.machine.store
    order = {"kind": "order", "input": {"order_id": "o-1234567"}}
    await small.request("execution.create", [order] * FUNCTIONS)
    parked = 0
    while parked < FUNCTIONS:
        tasks = await small.take(FUNCTIONS, start=True)
        await small.request(
            "lease.park", [fence(task) | {"entries": [wait], "mode": "any"} for task in tasks]
        )
        parked += len(tasks)
    own = re.compile(r":(x|w|j|wx|all|s|ws|due|input)(:|$)")
    keys = [key for key in await small.keys() if own.search(key.partition("}")[2])]
    sizes = [int(await store.execute("MEMORY", "USAGE", key, "SAMPLES", 0)) for key in keys]
    place = 8  # bytes of a key in Valkey's table of all keys
    assert (sum(sizes) + place * len(keys)) / FUNCTIONS * 1_000_000 <= MILLION_IN_BYTES
