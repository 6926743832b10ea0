"""Published signals: from the publish to the execution that runs again, and how many a second.

One execution at a time is suspended while a worker waits in `work.next`: the sample lasts from the publish to the
worker's task. Then many executions are suspended, and each is sent one signal; the rate counts until all of them run.
"""

import asyncio
import time
from typing import Any, Final

from benchmarks.figures.claims import fence
from benchmarks.figures.latency import percentile
from benchmarks.plan import BATCH, Plan
from benchmarks.systems import System, running
from penstock import Client

WARM_UP: Final = 20
WAITING: Final = 2000
WINDOW: Final = 256
"""Publishes that are not acknowledged yet, at most."""


def measure(system: System, plan: Plan) -> dict[str, float]:
    with running(system, plan.durability) as house:
        return asyncio.run(_measure(house.nats_url, plan.round_trips // 5, max(100, WAITING // plan.divide)))


async def _measure(url: str, count: int, waiting: int) -> dict[str, float]:
    async with await Client.connect(url) as client:
        samples = [await _one(client) for _ in range(WARM_UP + count)][WARM_UP:]
        rate = await _many(client, waiting)
    samples.sort()
    return {
        "signal_p50": percentile(samples, 0.5),
        "signal_p99": percentile(samples, 0.99),
        "signals": rate,
    }


async def _one(client: Client) -> float:
    """Seconds from the publish of a signal to the task of the worker that waits for work."""
    await client.submit("noop")
    [task] = await _take(client, 1)
    suspended: Any = await client.call("lease.suspend", fence(task))
    parked = asyncio.create_task(_take(client, 1))
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
