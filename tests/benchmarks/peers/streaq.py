"""streaQ: Redis streams. A pipeline enqueues a batch; clients wait for results over pub/sub."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from streaq import Worker

from benchmarks.peers.common import TEXT, main


class StreaQ:
    async def open(self, url: str, producers: int) -> None:
        self._worker, self._noop = _worker(url, 1, lambda: None)
        self._steps = AsyncExitStack()
        await self._steps.enter_async_context(self._worker)

    async def create(self, producer: int, count: int) -> None:
        await self._worker.enqueue_many([self._noop.enqueue(TEXT) for _ in range(count)])

    async def round_trip(self) -> None:
        task = await self._noop.enqueue(TEXT)
        await task.result(timeout=30)

    async def work(self, url: str, concurrency: int, ran: Callable[[], None]) -> None:
        await _worker(url, concurrency, ran)[0].run_async()


def _worker(url: str, concurrency: int, ran: Callable[[], None]):
    worker = Worker(redis_url=url, concurrency=concurrency)

    @worker.task(name="noop")
    async def noop(text: str) -> None:
        ran()

    return worker, noop


if __name__ == "__main__":
    main(StreaQ())
