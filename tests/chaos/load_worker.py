"""A worker process for chaos tests: quick jobs, jobs that fail at first, and slow jobs."""

import asyncio
import os

from penstock import Retry, Task, Worker

worker = Worker(os.environ["PENSTOCK_NATS_URL"], lanes=["default"], concurrency=8, lease_ttl=2.0)


@worker.handler("load.quick")
async def quick(n: int) -> int:
    return n + 1


@worker.handler("load.flaky")
async def flaky(task: Task, n: int) -> int:
    if task.attempt_index < 2:
        raise Retry("not yet", after=0.05)
    return n + 1


@worker.handler("load.slow")
async def slow(n: int) -> int:
    await asyncio.sleep(0.2)
    return n + 1


if __name__ == "__main__":
    worker.main()
