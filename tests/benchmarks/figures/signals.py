"""Published signals: from the publish to the execution that runs again, alone and beside a flood; how many a second.

One execution at a time is suspended while a worker waits in `work.next`: the sample lasts from the publish to the
worker's task. Then many executions are suspended, and each is sent one signal; the rate counts until all of them run.
Last, another process publishes thousands of signals that only count, to one waitpoint or spread over many, and samples
are taken until the router has got all of them. One waitpoint keeps 1,000 signals: the others become dead letters.
"""

import asyncio
import json
import sys
import time
from typing import Any, Final

from benchmarks.figures.claims import fence
from benchmarks.figures.latency import percentile
from benchmarks.plan import BATCH, Plan
from benchmarks.processes import Program
from benchmarks.systems import House, System, running
from penstock import Client

WARM_UP: Final = 20
WAITING: Final = 2000
WINDOW: Final = 256
"""Publishes that are not acknowledged yet, at most."""
FLOOD: Final = 10_000
SPREAD: Final = 100
"""Waitpoints that a spread flood goes to."""


def measure(system: System, plan: Plan) -> dict[str, float]:
    with running(system, plan.durability) as house:
        return asyncio.run(_measure(house, plan))


async def _measure(house: House, plan: Plan) -> dict[str, float]:
    count, flood = plan.round_trips // 5, FLOOD // plan.divide
    async with await Client.connect(house.nats_url) as client:
        samples = sorted([await _one(client) for _ in range(WARM_UP + count)][WARM_UP:])
        rate = await _many(client, max(100, WAITING // plan.divide))
        await asyncio.to_thread(house.settle)
        alone = percentile(sorted([await _one(client) for _ in range(count)]), 0.5)
        spread = await _beside(client, house, flood, SPREAD)
        one = await _beside(client, house, flood, 1)
    return {
        "signal_p50": percentile(samples, 0.5),
        "signal_p99": percentile(samples, 0.99),
        "signals": rate,
        "signal_beside_spread": percentile(spread, 0.5) / alone,
        "signal_beside_one": percentile(one, 0.5) / alone,
        "signal_beside_spread_max": spread[-1] * 1000,
        "signal_beside_one_max": one[-1] * 1000,
    }


async def _beside(client: Client, house: House, count: int, waitpoints: int) -> list[float]:
    """Take samples while `count` signals are in flight to so many other waitpoints. Return them sorted."""
    to: list[tuple[str, str]] = []
    for _ in range(waitpoints):
        await client.submit("noop")
        [task] = await _take(client, 1)
        waits: Any = await client.call("lease.suspend", fence(task) | {"condition": {"name": "never"}})
        to.append((waits.waitpoint_id, waits.token))
    js = client.nats.jetstream()
    samples: list[float] = []
    command = [sys.executable, "-m", "benchmarks.figures.flood", house.nats_url]
    command.append(json.dumps({"count": count, "to": to}))
    with Program(command, house.folder / "flood.log", cwd=house.system.cwd) as flood:
        await asyncio.to_thread(flood.read, 60)
        published = asyncio.create_task(asyncio.to_thread(flood.read, 240))
        # Not until the stream is empty: that is later, and samples from that time would hide how slow the others are.
        while (
            not published.done() or (await js.consumer_info("PENSTOCK_SIGNALS", "signal-router")).num_pending
        ):
            samples.append(await _one(client))
        await published
    return sorted(samples)


async def _one(client: Client) -> float:
    """Seconds from the publish of a signal to the task of the worker that waits for work."""
    await client.submit("noop")
    [task] = await _take(client, 1)
    suspended: Any = await client.call("lease.suspend", fence(task))
    parked = asyncio.create_task(_take_all(client, 1))
    await asyncio.sleep(0.005)  # so that the worker stands in line
    started = time.perf_counter()
    await client.publish_signal(suspended.waitpoint_id, "go", suspended.token)
    [task] = await parked
    taken = time.perf_counter() - started
    await client.call("lease.complete", fence(task))
    return taken


async def _many(client: Client, count: int) -> float:
    """Signals a second, one to each of `count` suspended executions."""
    suspended: list[Any] = []
    for start in range(0, count, BATCH):
        await client.submit_many([("noop", None)] * min(BATCH, count - start))
        for task in await _take_all(client, min(BATCH, count - start)):
            suspended.append(await client.call("lease.suspend", fence(task)))
    window = asyncio.Semaphore(WINDOW)

    async def publish(waits: Any) -> None:
        async with window:
            await client.publish_signal(waits.waitpoint_id, "go", waits.token)

    started = time.perf_counter()
    _, tasks = await asyncio.gather(
        asyncio.gather(*(publish(waits) for waits in suspended)), _take_all(client, count)
    )
    taken = time.perf_counter() - started
    for task in tasks:
        await client.call("lease.complete", fence(task))
    return count / taken


async def _take(client: Client, most: int) -> list[Any]:
    """Up to `most` running tasks, once there is one."""
    ask = {"worker_id": "signals", "max": most, "wait_ms": 5000, "start": True, "lease_ttl_ms": 60_000}
    reply: Any = await client.call("work.next", ask, timeout=10)
    return reply.tasks


async def _take_all(client: Client, count: int) -> list[Any]:
    """That many running tasks."""
    tasks: list[Any] = []
    while len(tasks) < count:
        tasks += await _take(client, min(64, count - len(tasks)))
    return tasks
