"""arq: workers poll a sorted set; arq has no call to enqueue a batch.

The poll intervals for jobs and results (0.5 s by default) are set to 10 ms, or else arq would mostly sleep.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from benchmarks.peers.common import TEXT, main

POLL_S = 0.01


class Arq:
    async def open(self, url: str, producers: int) -> None:
        self._pool = await create_pool(RedisSettings.from_dsn(url))

    async def create(self, producer: int, count: int) -> None:
        await asyncio.gather(*(self._pool.enqueue_job("noop", TEXT) for _ in range(count)))

    async def round_trip(self) -> None:
        job = await self._pool.enqueue_job("noop", TEXT)
        assert job is not None
        await job.result(timeout=30, poll_delay=POLL_S)

    async def work(self, url: str, concurrency: int, ran: Callable[[], None]) -> None:
        async def noop(ctx: Any, text: str) -> None:
            ran()

        worker = Worker(
            [func(noop, name="noop")],
            redis_settings=RedisSettings.from_dsn(url),
            max_jobs=concurrency,
            poll_delay=POLL_S,
        )
        await worker.async_run()


if __name__ == "__main__":
    main(Arq())
