"""execution.run_now, .change_priority, .set_tags and .replay: somebody steers an execution."""

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.messages.control import (
    ExecutionChangePriority,
    ExecutionReplay,
    ExecutionRunNow,
    ExecutionSetTags,
)
from penstock.store import Store
from penstock.store.specs import merge
from penstock_scheduler import views
from penstock_scheduler.idempotency import digest, once

Steering = ExecutionRunNow | ExecutionChangePriority | ExecutionSetTags


class Control:
    """Handlers that change what is there, or run it again as something new."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run_now(self, call: Call[ExecutionRunNow]) -> Sequence[Any]:
        return await self._steer("run_now", call.items)

    async def change_priority(self, call: Call[ExecutionChangePriority]) -> Sequence[Any]:
        return await self._steer("change_priority", call.items)

    async def set_tags(self, call: Call[ExecutionSetTags]) -> Sequence[Any]:
        return await self._steer("set_tags", call.items)

    async def _steer(self, op: str, items: Sequence[Steering]) -> Sequence[Any]:
        records = await self._store.call_many([(partition_of(item.execution_id), op, item) for item in items])
        return [each if isinstance(each, PenstockError) else views.execution(each) for each in records]

    async def replay(self, call: Call[ExecutionReplay]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._replay, call.items), return_exceptions=True)

    async def _replay(self, item: ExecutionReplay) -> dict[str, Any]:
        partition = partition_of(item.execution_id)
        given: dict[str, Any] = {}
        if item.input is not UNSET:
            given = {"override": True, "input": item.input}

        async def make(execution_id: str, again: bool = False) -> dict[str, Any]:
            args = {"id": execution_id, "execution_id": item.execution_id, "again": again, **given}
            reply = await self._store.call(partition, "replay", args)
            if "edge_inputs" in reply:
                # It ran with what edges handed on to it, and so does its replay.
                text = merge(reply.get("input"), reply["edge_inputs"])
                reply = await self._store.call(partition, "replay", args | {"override": True, "input": text})
            return reply

        if item.idempotency_key is None:
            return await make(self._store.new_id(partition))
        # The old execution's namespace is not known here; replays' keys are apart from all others anyway.
        return await once(
            self._store, "replay", "default", item.idempotency_key, digest(item), partition, make
        )
