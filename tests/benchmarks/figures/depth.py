"""Claims one after the other, with 1,000 executions queued and with very many; both on a quiet system."""

import asyncio
from statistics import median

from benchmarks.figures.claims import Claimer
from benchmarks.plan import BATCH, PRODUCERS, Plan
from benchmarks.systems import House, System, running
from penstock import Client

SHALLOW = 1000


def measure(system: System, plan: Plan) -> dict[str, float]:
    with running(system, plan.durability) as house:
        few, few_us = _claims_at(house, SHALLOW, plan.claims)
        many, many_us = _claims_at(house, plan.deep, plan.claims)
        used = house.valkey.info("memory")["used_memory"]
    return {
        "depth_queued": plan.deep,
        "depth_few_p50": few,
        "depth_many_p50": many,
        "depth_ratio": many / few,
        "depth_valkey_few": few_us,
        "depth_valkey_many": many_us,
        "depth_memory": used / plan.deep / 1024,
    }


def _claims_at(house: House, queued: int, count: int) -> tuple[float, float]:
    """Median milliseconds of a claim, and Valkey's microseconds for it, its completion included."""
    there = house.valkey.zcard("penstock:{0}:s:default:ready")
    missing = max(BATCH, (queued - there) // BATCH * BATCH)
    house.ask("create", timeout=600, count=missing, batch=BATCH, producers=PRODUCERS)
    house.settle(600)
    house.valkey.config_resetstat()
    samples = asyncio.run(_claims(house.nats_url, count))
    calls = house.valkey.info("commandstats")["cmdstat_fcall"]["usec"]
    return median(samples) * 1000, calls / count


async def _claims(url: str, count: int) -> list[float]:
    async with await Client.connect(url) as client:
        worker = Claimer(client, "worker")
        for _ in range(count):
            await worker.claim()
        return worker.samples
