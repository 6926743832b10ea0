"""SAQ: lists, and a Lua script that enqueues; SAQ has no call to enqueue a batch.

The client polls for results, every 0.5 s by default; the interval is set to 10 ms here.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from saq import Queue, Worker

from benchmarks.peers.common import TEXT, main

POLL_S = 0.01


class Saq:
    async def open(self, url: str, producers: int) -> None:
        self._queue = Queue.from_url(url)
        await self._queue.connect()

    async def create(self, producer: int, count: int) -> None:
        await asyncio.gather(*(self._queue.enqueue("noop", text=TEXT) for _ in range(count)))

    async def round_trip(self) -> None:
        await self._queue.apply("noop", poll_interval=POLL_S, text=TEXT)

    async def work(self, url: str, concurrency: int, ran: Callable[[], None]) -> None:
        async def noop(ctx: Any, *, text: str) -> None:
            ran()

        await Worker(Queue.from_url(url), [("noop", noop)], concurrency=concurrency).start()


if __name__ == "__main__":
    main(Saq())
