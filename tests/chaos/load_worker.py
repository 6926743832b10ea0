"""A worker process for chaos tests: quick jobs, jobs that fail at first, and slow jobs."""

import asyncio
import os
import time
from pathlib import Path

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
async def slow(task: Task, n: int) -> int:
    began = time.monotonic()
    try:
        await asyncio.sleep(0.2)
    finally:
        if log := os.environ.get("LOAD_LOG"):  # when the handler ran, to be compared with other attempts
            with Path(log).open("a") as file:  # noqa: ASYNC230
                file.write(f"{task.execution_id} {began} {time.monotonic()}\n")
    return n + 1


if __name__ == "__main__":
    worker.main()
