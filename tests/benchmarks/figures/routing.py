"""Capability routing: 1,000 executions need one of ten capabilities; of 100 workers, ten have each capability.

All executions are queued in random order before any worker asks. Then all workers ask at once, and each goes on
until no execution for its capability is left. A claim is timed from `work.next` to the task. The workers are
coroutines of one process and also complete their tasks.
"""

import asyncio
import random
from typing import Final

from benchmarks.figures.claims import Claimer
from benchmarks.figures.latency import percentile
from benchmarks.plan import Plan
from benchmarks.systems import System, running
from penstock import Client

SETS: Final = 10
WORKERS: Final = 100
EXECUTIONS: Final = 1000


def measure(system: System, plan: Plan) -> dict[str, float]:
    with running(system, plan.durability) as house:
        samples = sorted(asyncio.run(_claims(house.nats_url)))
    return {"routing_p50": percentile(samples, 0.5), "routing_p99": percentile(samples, 0.99)}


async def _claims(url: str) -> list[float]:
    async with await Client.connect(url) as client:
        wanted = [index % SETS for index in range(EXECUTIONS)]
        random.Random(1).shuffle(wanted)
        await client.submit_many([{"kind": "noop", "capabilities": [f"skill-{index}"]} for index in wanted])
        workers = [
            Claimer(client, f"worker-{index}", ["common", f"skill-{index % SETS}"])
            for index in range(WORKERS)
        ]

        done = asyncio.Event()
        left = EXECUTIONS

        async def run(worker: Claimer) -> None:
            nonlocal left
            while await worker.claim():
                left -= 1
                if not left:
                    done.set()

        asking = [asyncio.create_task(run(worker)) for worker in workers]
        await asyncio.wait_for(done.wait(), 60)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        return [sample for worker in workers for sample in worker.samples]
