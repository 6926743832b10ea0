"""Read the registered workers for execution.explain: their lanes, capabilities, kinds and whether they drain."""

import asyncio
from typing import Final

from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.messages.workers import WorkerInfo
from penstock_scheduler.explaining.ready import Worker

PAGE: Final = 500
MOST: Final = 5000
"""No more pages are read from a partition past this many workers: an explanation names a few and counts the rest."""


class Registry:
    """A reader of the registered workers of all partitions, without the lost ones."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def __call__(self) -> list[Worker]:
        parts = await asyncio.gather(*map(self._of, range(self._machine.partitions)))
        return [worker for part in parts for worker in part]

    async def _of(self, partition: int) -> list[Worker]:
        workers: list[Worker] = []
        cursor: str | None = None
        while len(workers) < MOST:
            page = await self._machine.run(
                ops.WorkerList(cursor=cursor, limit=PAGE, budget=PAGE), at=partition
            )
            workers += [_worker(each) for each in page.items if each.status != "lost"]
            cursor = page.last
            if cursor is None:
                break
        return workers


def _worker(info: WorkerInfo) -> Worker:
    return Worker(
        info.worker_id,
        frozenset(info.lanes),
        frozenset(info.capabilities),
        None if info.kinds is None else tuple(info.kinds),
        draining=info.status == "draining",
    )
