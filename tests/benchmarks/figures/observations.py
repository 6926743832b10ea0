"""Published observations: how many a second a mirror-observer applies, over many mirrored flows.

The rate includes the publishing, which is its dearest part where nats-server syncs every message.
"""

import asyncio
import time
from typing import Any, Final

from benchmarks.plan import Plan
from benchmarks.systems import System, running
from penstock import Client
from penstock.client import FlowRun

FLOWS: Final = 100
OBSERVATIONS: Final = 20_000
WINDOW: Final = 512
"""Publishes that are not acknowledged yet, at most."""


def measure(system: System, plan: Plan) -> dict[str, float]:
    with running(system, plan.durability) as house:
        return asyncio.run(_measure(house.nats_url, max(1, OBSERVATIONS // plan.divide // FLOWS)))


async def _measure(url: str, steps: int) -> dict[str, float]:
    async with await Client.connect(url) as client:
        options: Any = {"completion": "on_task", "completion_task": "last"}
        flows = [await client.flows.create_mirrored("benchmark", **options) for _ in range(FLOWS)]
        window = asyncio.Semaphore(WINDOW)

        async def publish(flow: FlowRun, task: str, step: int) -> None:
            async with window:
                await flow.publish_observation(f"r{step}", task, "succeeded")

        started = time.perf_counter()
        await asyncio.gather(*(publish(flow, "task", step) for step in range(steps) for flow in flows))
        await asyncio.gather(*(publish(flow, "last", steps) for flow in flows))
        for flow in flows:
            assert (await flow.wait(60)).counts == {"succeeded": steps + 1}
        return {"observations": FLOWS * steps / (time.perf_counter() - started)}
