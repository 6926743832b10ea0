"""Flows: a hundred linear ones at once, one alone, a fan, and a wide one that is cancelled."""

import asyncio
import time
from itertools import pairwise
from statistics import median
from typing import Any, Final

from benchmarks.plan import CONCURRENCY, Plan
from benchmarks.systems import System, running
from penstock import Client
from penstock.client import FlowRun

FLOWS: Final = 100
MEMBERS: Final = 10
FAN: Final = 1000
ALONE: Final = 10
"""How many flows run one after the other."""

Edges = list[tuple[str, str]]


def measure(system: System, plan: Plan) -> dict[str, float]:
    with running(system, plan.durability) as house:
        with house.program("work", concurrency=CONCURRENCY, count=0) as worker:
            figures = asyncio.run(_run(house.nats_url))
            worker.stop()
        return figures | asyncio.run(_cancel(house.nats_url))


async def _run(url: str) -> dict[str, float]:
    async with await Client.connect(url) as client:
        await _timed(client, 1)
        alone = [await _timed(client, 1) for _ in range(ALONE)]
        together = await _timed(client, FLOWS)
        middle = [f"m{n}" for n in range(FAN)]
        edges: Edges = [("first", key) for key in middle] + [(key, "last") for key in middle]
        fan = await _finish([await _create(client, ["first", *middle, "last"], edges)])
    return {"flow_alone": median(alone) * 1000, "flows": FLOWS / together, "flow_fan": fan * 1000}


async def _cancel(url: str) -> dict[str, float]:
    """A flow whose members are all ready: milliseconds to its status, and until every member has ended."""
    async with await Client.connect(url) as client:
        keys = [f"m{n}" for n in range(FAN)]
        flips: list[float] = []
        stops: list[float] = []
        for _ in range(5):
            flow = await _create(client, keys, [])
            await flow.start()
            started = time.perf_counter()
            await flow.cancel(policy="cancel_all")
            flips.append(time.perf_counter() - started)
            await flow.cancel(policy="cancel_all", wait=True)
            stops.append(time.perf_counter() - started)
    return {"cancel_flip": max(flips) * 1000, "cancel_stop": median(stops) * 1000}


async def _timed(client: Client, count: int) -> float:
    """Seconds that `count` linear flows take, from their start to the end of the last one."""
    keys = [f"m{n}" for n in range(MEMBERS)]
    edges = list(pairwise(keys))
    return await _finish(await asyncio.gather(*(_create(client, keys, edges) for _ in range(count))))


async def _create(client: Client, keys: list[str], edges: Edges) -> FlowRun:
    members: list[dict[str, Any]] = [{"key": key, "kind": "noop"} for key in keys]
    return await client.flows.create("benchmark", members=members, edges=edges)


async def _finish(flows: list[FlowRun]) -> float:
    started = time.perf_counter()
    waits = [asyncio.create_task(flow.wait(60)) for flow in flows]
    await asyncio.gather(*(flow.start() for flow in flows))
    await asyncio.gather(*waits)
    return time.perf_counter() - started
