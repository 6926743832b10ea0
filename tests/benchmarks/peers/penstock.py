"""Penstock, through its Python SDK."""

from collections.abc import Callable

from benchmarks.peers.common import TEXT, main
from penstock import Client, Worker


class Penstock:
    async def open(self, url: str, producers: int) -> None:
        # One client per producer: one client would join the requests of one event-loop tick into one message.
        self._clients = [await Client.connect(url) for _ in range(producers)]

    async def create(self, producer: int, count: int) -> None:
        await self._clients[producer].submit_many([("noop", TEXT)] * count)

    async def round_trip(self) -> None:
        await self._clients[0].execute("noop", TEXT, timeout=30)

    def work(self, url: str, concurrency: int, ran: Callable[[], None]) -> None:
        worker = Worker(url, lanes=["default"], concurrency=concurrency)

        @worker.handler("noop")
        async def noop() -> None:  # pyright: ignore[reportUnusedFunction]
            ran()

        worker.main()


if __name__ == "__main__":
    main(Penstock())
