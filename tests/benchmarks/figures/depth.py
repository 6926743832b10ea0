"""Claim latency with very many executions queued, against 1,000 queued.

Two Penstocks run at the same time, one with a shallow and one with a deep queue, otherwise idle. Claims alternate
between the two, so that other load on the machine affects both alike.
"""

import asyncio
from statistics import median

from benchmarks.figures.claims import Claimer
from benchmarks.plan import BATCH, PRODUCERS, Plan
from benchmarks.systems import House, System, running
from penstock import Client

SHALLOW = 1000
WARM_UP = 20


def measure(system: System, plan: Plan) -> dict[str, float]:
    with running(system, plan.durability) as few, running(system, plan.durability) as many:
        empty = many.valkey.info("memory")["used_memory"]
        _fill(few, SHALLOW)
        _fill(many, plan.deep)
        memory = (many.valkey.info("memory")["used_memory"] - empty) / plan.deep / 1024
        samples = asyncio.run(_claims(few.nats_url, many.nats_url, plan.claims))
        calls = [_calls_us(house) / plan.claims for house in (few, many)]
    shallow, deep = (median(each) * 1000 for each in samples)
    return {
        "depth_queued": plan.deep,
        "depth_few_p50": shallow,
        "depth_many_p50": deep,
        "depth_ratio": deep / shallow,
        "depth_valkey_few": calls[0],
        "depth_valkey_many": calls[1],
        "depth_memory": memory,
    }


def _fill(house: House, count: int) -> None:
    house.ask("create", timeout=600, count=count, batch=BATCH, producers=PRODUCERS)
    house.settle(600)
    house.valkey.config_resetstat()


async def _claims(few: str, many: str, count: int) -> list[list[float]]:
    async with await Client.connect(few) as shallow, await Client.connect(many) as deep:
        workers = [Claimer(shallow, "worker"), Claimer(deep, "worker")]
        for _ in range(WARM_UP + count):
            for worker in workers:
                await worker.claim()
        return [worker.samples[WARM_UP:] for worker in workers]


def _calls_us(house: House) -> float:
    """Return the microseconds that Valkey has spent in function calls since the last reset."""
    return float(house.valkey.info("commandstats")["cmdstat_fcall"]["usec"])
