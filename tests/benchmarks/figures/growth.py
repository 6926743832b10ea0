"""How the cost of one execution grows with what there is: queued, workers, lanes, partitions, suspended, limits, bytes.

All points with the same number of partitions are measured in one Penstock, each in lanes of its own; those that leave
much behind (suspended, queued) come last. A round creates executions and then drains them, with as many created before
them as the point says. The cost is processor time per execution, in microseconds: of Valkey's main thread, and
of all services and servers together. Processor time does not mind what else the machine does, but caches and small
batches do: the least of the rounds is reported.

The last point is a Penstock with nothing to do: the processor time of each service and the calls to Valkey.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Final

from benchmarks.figures.claims import fence
from benchmarks.install import say
from benchmarks.plan import BATCH, Plan
from benchmarks.systems import SERVICES, House, System, running
from penstock import Client

SLOTS: Final = 64
"""Executions that one worker takes at a time, if there are few workers; and the lanes that one asks for."""
BACKLOG: Final = 1000
"""Queued before the measured ones where a point does not say how many."""
TENANTS: Final = 1000
CLIENTS: Final = 4
IDLE_SECONDS: Final = 20
PARTITIONS: Final = (1, 4, 16, 64)
IDLE: Final = (1, 64)
AXES: Final = ("workers", "limits", "payload", "lanes", "suspended", "queued", "partitions", "idle")


@dataclass(frozen=True)
class Point:
    """One point of a curve: what there is while `sample` executions are created and drained."""

    axis: str
    size: int | str
    sample: int
    queued: int = BACKLOG
    workers: int = 1
    lanes: int = 1
    partitions: int = 1
    suspended: int = 0
    limit: str = "off"
    payload: int = 100

    @property
    def name(self) -> str:
        return f"growth.{self.axis}.{self.size}"


def points(plan: Plan) -> Iterator[Point]:
    """Return all points of a plan. Counts above `plan.deep` are left out."""
    sample = plan.growth_sample

    def most(*sizes: int) -> list[int]:
        return [size for size in sizes if size <= plan.deep]

    for size in most(1, 100, 1000):
        yield Point("workers", size, sample, workers=size)
    for limit in ("off", "concurrency", "quota", "fairness"):
        yield Point("limits", limit, sample, limit=limit)
    for size in (100, 10_240, 512_000):
        few = max(SLOTS, sample * 100 // size) if size > 100_000 else sample
        yield Point("payload", size, few, queued=min(BACKLOG, few), payload=size)
    for size in most(1, 100, 10_000):
        yield Point("lanes", size, max(sample, size), queued=0, lanes=size, workers=ceil(size / SLOTS))
    for size in most(0, 10_000, 100_000, 1_000_000):
        yield Point("suspended", size, sample, suspended=size)
    for size in most(1000, 100_000, 1_000_000):
        yield Point("queued", size, sample, queued=size)
    for size in PARTITIONS:
        yield Point("partitions", size, sample, partitions=size)


def measure(
    system: System, plan: Plan, axes: Collection[str] = AXES, keep: Callable[[dict[str, float]], None] = dict
) -> dict[str, float]:
    """Measure the points of these axes. `keep` gets all figures so far after each point."""
    figures: dict[str, float] = {}
    chosen = [point for point in points(plan) if point.axis in axes]
    for partitions in PARTITIONS:
        mine = [point for point in chosen if point.partitions == partitions]
        idle = "idle" in axes and partitions in IDLE
        if not mine and not idle:
            continue
        with running(system, plan.durability, partitions) as house:
            if idle:
                figures |= _idle(house)
            for point in mine:
                say(point.name)
                figures |= asyncio.run(_Load(house, point).cost(plan.growth_rounds))
                keep(figures)
    return figures


class _Load:
    """The work of one point."""

    def __init__(self, house: House, point: Point) -> None:
        self._house = house
        self._point = point
        self._clients: list[Client] = []
        self._options: list[dict[str, Any]] = [{}]

    async def cost(self, rounds: int) -> dict[str, float]:
        """Create what has to be there, then measure. Return the least microseconds per execution of the rounds."""
        point = self._point
        self._clients = [await Client.connect(self._house.nats_url) for _ in range(CLIENTS)]
        try:
            await self._suspend(point.suspended)
            self._options = await self._limited()
            await self._create(point.queued)
            await self._round()  # warm-up: connections, scripts, the first branches
            costs = [await self._round() for _ in range(rounds)]
        finally:
            for client in self._clients:
                await client.close()
        return {
            f"{point.name}.{name}": min(cost[name] for cost in costs) for name in ("create", "run", "all")
        }

    async def _round(self) -> dict[str, float]:
        """Return microseconds per execution: Valkey's while created, Valkey's while run, all processes' for both."""
        sample = self._point.sample
        await asyncio.to_thread(self._house.settle)
        before = self._processes(), self._valkey()
        await self._create(sample)
        await asyncio.to_thread(self._house.settle)
        created = self._valkey()
        await self._drain(sample, "complete")
        await asyncio.to_thread(self._house.settle)
        after = self._processes(), self._valkey()
        return {
            "create": (created - before[1]) / sample * 1e6,
            "run": (after[1] - created) / sample * 1e6,
            "all": (after[0] - before[0]) / sample * 1e6,
        }

    def _lane(self, index: int) -> str:
        """Return a lane of this point alone."""
        return f"{self._point.axis}-{self._point.size}-{index}"

    def _processes(self) -> float:
        return sum(self._house.cpu().values())

    def _valkey(self) -> float:
        cpu = self._house.valkey.info("cpu")
        return cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]

    async def _create(self, count: int) -> None:
        text = "x" * (self._point.payload - 2)
        lanes, options = self._point.lanes, self._options
        left = iter(range(0, count, BATCH))

        async def produce(client: Client) -> None:
            for start in left:
                await client.submit_many(
                    [
                        {
                            "kind": "noop",
                            "input": text,
                            "lane": self._lane(i % lanes),
                            **options[i % len(options)],
                        }
                        for i in range(start, min(start + BATCH, count))
                    ]
                )

        await asyncio.gather(*map(produce, self._clients))

    async def _limited(self) -> list[dict[str, Any]]:
        """Return the options that make executions subject to the point's limit; they are used in turn."""
        match self._point.limit:
            case "concurrency":
                return [{"concurrency_key": f"key-{i}", "concurrency_limit": SLOTS} for i in range(100)]
            case "quota":
                quota: Any = await self._clients[0].call("quota.create", {"max_concurrent": 100_000})
                return [{"quota_id": quota.quota_id}]
            case "fairness":
                return [{"fairness_key": f"tenant-{i}"} for i in range(TENANTS)]
            case _:
                return [{}]

    async def _suspend(self, count: int) -> None:
        """Suspend that many executions, slice by slice, so that no lease ends meanwhile."""
        for start in range(0, count, 10_000):
            few = min(10_000, count - start)
            await self._create(few)
            await self._drain(few, "suspend")

    async def _drain(self, count: int, verb: str) -> None:
        """Have all workers take `count` tasks together, and end their leases with `verb`."""
        point = self._point
        groups = max(1, ceil(point.lanes / SLOTS))
        workers = max(point.workers, groups)
        most = max(1, SLOTS * CLIENTS // workers) if workers > 1 else SLOTS
        left = [count // groups] * groups
        if groups > 1:  # lanes are filled in turn: the last group has fewer of them
            of_lane = count / point.lanes
            left = [round(of_lane * min(SLOTS, point.lanes - SLOTS * g)) for g in range(groups)]

        async def work(index: int) -> None:
            client, group = self._clients[index % CLIENTS], index % groups
            lanes = [self._lane(i) for i in range(group * SLOTS, min((group + 1) * SLOTS, point.lanes))]
            ask = {"worker_id": f"worker-{index}", "lanes": lanes, "wait_ms": 2000, "start": True}
            while left[group]:
                asked = min(most, left[group])
                left[group] -= asked
                reply: Any = await client.call("work.next", {**ask, "max": asked}, timeout=60)
                left[group] += asked - len(reply.tasks)
                end = partial(client.call, f"lease.{verb}")
                extra = {"condition": {"name": "never"}} if verb == "suspend" else {}
                await asyncio.gather(*(end(fence(task) | extra) for task in reply.tasks))

        await asyncio.gather(*map(work, range(workers)))


def _idle(house: House) -> dict[str, float]:
    """Return the share of a core of each service, in percent, and the calls a second to Valkey, with no work."""
    house.settle()
    time.sleep(3)  # what a start does is over
    valkey = house.valkey
    name = f"idle.{house.partitions}"

    def calls() -> int:
        """Return the calls that services made. (Valkey counts also what functions do inside, which is no traffic.)"""
        return valkey.info("commandstats")["cmdstat_fcall"]["calls"]

    before, count, began = house.cpu(), calls(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    after, taken = house.cpu(), time.monotonic() - began
    figures = {f"{name}.{each}": (after[each] - before[each]) / taken * 100 for each in SERVICES}
    return figures | {f"{name}.calls": (calls() - count) / taken}
