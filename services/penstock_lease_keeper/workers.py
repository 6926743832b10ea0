"""worker.register, .heartbeat, .list and .drain: the registry of workers.

The registry tells people which workers exist and what they can do. No lease depends on the registry: a lease lasts
as long as its worker renews it.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from penstock.bus.calls import Call
from penstock.errors import make
from penstock.ids import partition_for
from penstock.machine import Machine
from penstock.machine.ops import lease_keeper as ops
from penstock.messages.workers import (
    About,
    DrainPush,
    WorkerDrain,
    WorkerHeartbeat,
    WorkerList,
    WorkerRegister,
)
from penstock.subjects import worker_subject
from penstock_lease_keeper.kinds import Kinds

_DRAIN: Final = msgspec.json.encode(DrainPush())
BUDGET: Final = 1000
"""Workers that one call examines in each partition: a page may be short, but is never slow."""


class Workers:
    """Handlers for the registry of workers."""

    def __init__(self, machine: Machine, nats: Client, kinds: Kinds, root: str) -> None:
        self._machine = machine
        self._nats = nats
        self._kinds = kinds
        self._root = root

    async def register(self, call: Call[WorkerRegister]) -> Sequence[Any]:
        item = call.items[0]
        register = ops.WorkerRegister.of(item, **_sets(item))
        if item.schemas:
            await self._kinds.tell(item.schemas, register.lanes)
        return [await self._machine.run(register, at=self._home(item.worker_id))]

    async def heartbeat(self, call: Call[WorkerHeartbeat]) -> Sequence[Any]:
        item = call.items[0]
        heartbeat = ops.WorkerHeartbeat.of(item, **_sets(item))
        return [await self._machine.run(heartbeat, at=self._home(item.worker_id))]

    async def drain(self, call: Call[WorkerDrain]) -> Sequence[Any]:
        """Push the drain to the worker. The reply to its next heartbeat repeats it, in case the push is lost."""
        item = call.items[0]
        worker = await self._machine.run(ops.WorkerDrain.of(item), at=self._home(item.worker_id))
        try:
            await self._nats.publish(worker_subject(self._root, item.worker_id), _DRAIN)
        except NatsError as error:
            raise make(
                "timeout", f"the worker could not be told ({type(error).__name__}); try again"
            ) from None
        return [worker]

    async def list(self, call: Call[WorkerList]) -> Sequence[Any]:
        item = call.items[0]
        found = await self._machine.everywhere(ops.WorkerList.of(item, budget=max(BUDGET, item.limit)))
        # Up to the id `bound` the list is complete: every partition has returned its workers that far.
        bound = min((here.last for here in found if here.last is not None), default=None)
        items = sorted((each for here in found for each in here.items), key=lambda each: each.worker_id)
        if bound is not None:
            items = [each for each in items if each.worker_id <= bound]
        page = items[: item.limit]
        cursor = page[-1].worker_id if len(items) > item.limit else bound
        if page:
            counts = await self._machine.everywhere(ops.WorkerHeld(ids=[each.worker_id for each in page]))
            for index, each in enumerate(page):
                each.held = sum(here.held[index] for here in counts)
        return [{"items": page, "cursor": cursor}]

    def _home(self, worker_id: str) -> int:
        return partition_for(worker_id, self._machine.partitions)


def _sets(item: About) -> dict[str, Any]:
    """Return lanes, capabilities and kinds as sets: sorted, without duplicates."""
    return {
        "lanes": sorted(set(item.lanes)),
        "capabilities": sorted(set(item.capabilities)),
        "kinds": None if item.kinds is None else sorted(set(item.kinds)),
    }
