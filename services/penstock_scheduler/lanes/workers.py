"""The registered workers, as far as it matters for who may do what: for execution.explain."""

import asyncio
from typing import Any, Final

from penstock.store import Store
from penstock_scheduler.explaining.ready import Worker

PAGE: Final = 500
MOST: Final = 5000
"""Workers of one partition that are looked at: an explanation names a few and counts the rest."""


class Registry:
    """Reads the workers of all partitions, but for the lost ones."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def __call__(self) -> list[Worker]:
        parts = await asyncio.gather(*map(self._of, range(self._store.partitions)))
        return [worker for part in parts for worker in part]

    async def _of(self, partition: int) -> list[Worker]:
        workers: list[Worker] = []
        cursor: str | None = None
        while len(workers) < MOST:
            args = {"cursor": cursor, "limit": PAGE, "budget": PAGE}
            reply = await self._store.call(partition, "workers", args)
            workers += [_worker(item) for item in reply["items"] if item["status"] != "lost"]
            cursor = reply.get("last")
            if cursor is None:
                break
        return workers


def _worker(item: dict[str, Any]) -> Worker:
    return Worker(
        item["worker_id"],
        frozenset(item["lanes"]),
        frozenset(item["capabilities"]),
        draining=item["status"] == "draining",
    )
