"""taskiq on NATS JetStream: a pull consumer. Clients poll a JetStream object store for results."""

import asyncio
from collections.abc import Callable

from taskiq.api import run_receiver_task
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

from benchmarks.peers.common import TEXT, main

POLL_S = 0.01


class TaskiqNats:
    async def open(self, url: str, producers: int) -> None:
        self._broker, self._noop = _broker(url, lambda: None)
        await self._broker.startup()

    async def create(self, producer: int, count: int) -> None:
        await asyncio.gather(*(self._noop.kiq(TEXT) for _ in range(count)))

    async def round_trip(self) -> None:
        task = await self._noop.kiq(TEXT)
        await task.wait_result(check_interval=POLL_S, timeout=30)

    async def work(self, url: str, concurrency: int, ran: Callable[[], None]) -> None:
        broker, _ = _broker(url, ran)
        await run_receiver_task(broker, max_async_tasks=concurrency, run_startup=True)


def _broker(url: str, ran: Callable[[], None]):
    broker = PullBasedJetStreamBroker([url], pull_consume_batch=100, pull_consume_timeout=1)
    broker = broker.with_result_backend(NATSObjectStoreResultBackend([url]))

    async def noop(text: str) -> None:
        ran()

    return broker, broker.register_task(noop, task_name="noop")


if __name__ == "__main__":
    main(TaskiqNats())
