"""worker.register, .heartbeat, .list and .drain: the registry of workers.

It tells people who is there and what they can do. No lease depends on it: a lease lives by its own renewals.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from penstock.bus.endpoints import Call
from penstock.errors import make
from penstock.ids import partition_for
from penstock.messages.workers import WorkerDrain, WorkerHeartbeat, WorkerList, WorkerRegister
from penstock.store import Store
from penstock.subjects import worker_subject

BUDGET: Final = 1000
"""Workers that one call looks at in each partition: a page may be short, never slow."""


class Workers:
    """Handlers about workers."""

    def __init__(self, store: Store, nats: Client, root: str) -> None:
        self._store = store
        self._nats = nats
        self._root = root

    async def register(self, call: Call[WorkerRegister]) -> Sequence[Any]:
        return [await self._seen("worker_register", call.items[0])]

    async def heartbeat(self, call: Call[WorkerHeartbeat]) -> Sequence[Any]:
        return [await self._seen("worker_heartbeat", call.items[0])]

    async def _seen(self, op: str, item: WorkerRegister) -> dict[str, Any]:
        # Requests leave their defaults off the wire; the state machine wants them said.
        args = msgspec.structs.asdict(item)
        args["lanes"], args["capabilities"] = sorted(set(item.lanes)), sorted(set(item.capabilities))
        return await self._store.call(self._home(item.worker_id), op, args)

    async def drain(self, call: Call[WorkerDrain]) -> Sequence[Any]:
        """Pushed to the worker, and said again in the answer to its next heartbeat, should the push get lost."""
        item = call.items[0]
        worker = await self._store.call(self._home(item.worker_id), "worker_drain", item)
        try:
            await self._nats.publish(worker_subject(self._root, item.worker_id), b'{"type":"drain"}')
        except NatsError as error:
            raise make(
                "timeout", f"the worker could not be told ({type(error).__name__}); try again"
            ) from None
        return [worker]

    async def list(self, call: Call[WorkerList]) -> Sequence[Any]:
        item = call.items[0]
        args = {**msgspec.structs.asdict(item), "budget": max(BUDGET, item.limit)}
        replies = await self._everywhere("worker_list", args)
        # Up to `bound` every partition has told all that it has.
        bound = min((reply["last"] for reply in replies if "last" in reply), default=None)
        items = sorted(
            (each for reply in replies for each in reply["items"]), key=lambda each: each["worker_id"]
        )
        if bound is not None:
            items = [each for each in items if each["worker_id"] <= bound]
        page = items[: item.limit]
        cursor = page[-1]["worker_id"] if len(items) > item.limit else bound
        ids = [each["worker_id"] for each in page]
        counts = (
            [reply["held"] for reply in await self._everywhere("worker_held", {"ids": ids})] if ids else []
        )
        for index, each in enumerate(page):
            each["held"] = sum(held[index] for held in counts)
        return [{"items": page, "cursor": cursor}]

    def _home(self, worker_id: str) -> int:
        return partition_for(worker_id, self._store.partitions)

    async def _everywhere(self, op: str, args: dict[str, Any]) -> Sequence[dict[str, Any]]:
        return await asyncio.gather(
            *(self._store.call(partition, op, args) for partition in range(self._store.partitions))
        )
