"""DBOS, on the PostgreSQL at a URL: prints what the figure `durable` measures of Penstock, as one JSON line.

python -m benchmarks.peers.dbos postgresql://… '{"count": 1000, "functions": 500, "concurrency": 64, "journal": 1000}'

DBOS replays a workflow after a crash, or when it is forked: timed is a fork at the end of the journal, to its result.
"""

import asyncio
import json
import statistics
import sys
import time

from dbos import DBOS, DBOSConfig, SetWorkflowID

STEPS = 10
REPLAYS = 5


@DBOS.step()
async def noop() -> None: ...


@DBOS.workflow()
async def timed(count: int) -> list[float]:
    samples: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        await noop()
        samples.append(time.perf_counter() - started)
    return samples


@DBOS.workflow()
async def steps(count: int) -> None:
    for _ in range(count):
        await noop()


async def measure(count: int, functions: int, concurrency: int, journal: int) -> dict[str, object]:
    await timed(10)
    samples = await timed(count)
    limit = asyncio.Semaphore(concurrency)

    async def one() -> None:
        async with limit:
            await steps(STEPS)

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(functions)))
    rate = functions / (time.perf_counter() - started)
    short, long = await replay(1), await replay(journal)
    return {"samples": samples, "rate": rate, "replay": long - short}


async def replay(length: int) -> float:
    """Return the median seconds from a fork at the end of a journal of this length to its result."""
    name = f"replay-{length}"
    with SetWorkflowID(name):
        await steps(length)
    seconds: list[float] = []
    for _ in range(REPLAYS):
        started = time.perf_counter()
        handle = await DBOS.fork_workflow_async(name, length + 1)
        await handle.get_result(polling_interval_sec=0.001)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    config: DBOSConfig = {"name": "bench", "system_database_url": sys.argv[1], "run_admin_server": False}
    DBOS(config=config)
    DBOS.launch()
    print(json.dumps(asyncio.run(measure(**json.loads(sys.argv[2])))), flush=True)
    DBOS.destroy()
