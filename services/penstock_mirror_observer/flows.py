"""flow.create_mirrored."""

import hashlib
import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import make
from penstock.ids import partition_for
from penstock.messages.flows import Flow, FlowCreateMirrored
from penstock.store import Store

_canonical: Final = msgspec.json.Encoder(order="deterministic").encode


class Flows:
    """The handler of flow.create_mirrored."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create_mirrored(self, call: Call[FlowCreateMirrored]) -> Sequence[Any]:
        item = call.items[0]
        _check(item)
        partitions = self._store.partitions
        args = msgspec.structs.asdict(item)
        if item.idempotency_key is None:
            partition = random.randrange(partitions)
        else:
            # The same key must meet the same memory of keys.
            partition = partition_for(f"{item.namespace}:{item.idempotency_key}", partitions)
            args["digest"] = hashlib.blake2b(_canonical(item), digest_size=16).hexdigest()
        args["id"] = self._store.new_id(partition)
        return [Flow.of(await self._store.call(partition, "create_mirrored", args))]


def _check(item: FlowCreateMirrored) -> None:
    """Raises `invalid_request` for a completion that could never come, or a task that nobody asks for."""
    if (item.completion == "on_task") != (item.completion_task is not None):
        raise make(
            "invalid_request",
            "completion_task: on_task needs it, any other completion takes none",
            detail={"field": "completion_task"},
        )
