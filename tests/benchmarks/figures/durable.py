"""Durable functions: a no-op step, functions of ten steps, and how long a journal of 1,000 entries takes to replay.

A worker with 64 slots and the client are one process. Replay: a function with that many steps waits for a signal; timed
is from the signal to its result, less that of a function with one step. `…_cpu` is the processor time of that process,
which minds less what else the machine does. peers/dbos.py measures DBOS by hand.
"""

import asyncio
import statistics
import time
from typing import Any, Final

from benchmarks.figures.latency import percentile
from benchmarks.plan import CONCURRENCY, Plan
from benchmarks.systems import System, running
from penstock import Client, Task, Worker

STEPS: Final = 10
JOURNAL: Final = 1000
REPLAYS: Final = 5


def measure(system: System, plan: Plan) -> dict[str, float]:
    with running(system, plan.durability) as house:
        return asyncio.run(_measure(house.nats_url, plan))


async def noop() -> None: ...


def _worker(url: str) -> Worker:
    worker = Worker(url, concurrency=CONCURRENCY)

    @worker.handler("timed")
    async def timed(task: Task, count: int) -> list[float]:  # pyright: ignore[reportUnusedFunction]
        samples: list[float] = []
        for _ in range(count):
            started = time.perf_counter()
            await task.step("noop", noop)
            samples.append(time.perf_counter() - started)
        return samples

    @worker.handler("steps")
    async def steps(task: Task) -> None:  # pyright: ignore[reportUnusedFunction]
        for _ in range(STEPS):
            await task.step("noop", noop)

    @worker.handler("long", keep_warm=0)
    async def long(task: Task, count: int) -> None:  # pyright: ignore[reportUnusedFunction]
        for start in range(0, count, 100):
            ends = range(start, min(start + 100, count))
            await task.parallel(*(task.step("noop", noop, key=n) for n in ends))
        await task.wait_signal("go")

    return worker


async def _measure(url: str, plan: Plan) -> dict[str, float]:
    worker = _worker(url)
    working = asyncio.create_task(worker.run(handle_signals=False))
    try:
        async with await Client.connect(url) as client:
            await worker.ready.wait()
            count = plan.round_trips // 2
            await (await client.submit("timed", {"count": 10})).result(60)
            samples = sorted(
                await (await client.submit("timed", {"count": count})).result(120, type=list[float])
            )
            functions = max(CONCURRENCY, 2000 // plan.divide)
            started, cpu = time.perf_counter(), time.process_time()
            runs = await client.submit_many([("steps", None)] * functions)
            await asyncio.gather(*(run.result(240) for run in runs))
            rate = functions / (time.perf_counter() - started)
            function_cpu = (time.process_time() - cpu) / functions
            short, short_cpu = await _replays(client, 1)
            long, long_cpu = await _replays(client, JOURNAL)
    finally:
        worker.stop()
        await working
    return {
        "step_p50": percentile(samples, 0.5),
        "step_functions": rate,
        "step_functions_cpu": function_cpu * 1000,
        "replay": (long - short) * 1000,
        "replay_cpu": (long_cpu - short_cpu) * 1000,
    }


async def _replays(client: Client, count: int) -> tuple[float, float]:
    """Return the median seconds, and processor seconds, of several replays."""
    seconds, cpu = zip(*[await _replay(client, count) for _ in range(REPLAYS)], strict=True)
    return statistics.median(seconds), statistics.median(cpu)


async def _replay(client: Client, count: int) -> tuple[float, float]:
    """Return the seconds, and processor seconds, from the signal to the end of a function that has so many steps."""
    run = await client.submit("long", {"count": count})
    record: Any = None
    while record is None or record.state != "suspended":
        await asyncio.sleep(0.01)
        record = await run.get()
    started, cpu = time.perf_counter(), time.process_time()
    await client.send_signal(run.execution_id, "go")
    await run.result(60)
    return time.perf_counter() - started, time.process_time() - cpu
