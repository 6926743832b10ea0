"""execution.run_now, .change_priority, .set_tags and .replay: control an existing execution."""

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, convert

from penstock.bus.calls import Call
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.idempotency import once
from penstock.machine.ops import scheduler as ops
from penstock.machine.specs import merge
from penstock.messages.control import (
    ExecutionChangePriority,
    ExecutionReplay,
    ExecutionRunNow,
    ExecutionSetTags,
    Replayed,
)


class Control:
    """Handlers that change an execution, or replay it as a new one."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def run_now(self, call: Call[ExecutionRunNow]) -> Sequence[Any]:
        return await self._machine.run_many([ops.RunNow.of(item) for item in call.items])

    async def change_priority(self, call: Call[ExecutionChangePriority]) -> Sequence[Any]:
        return await self._machine.run_many([ops.ChangePriority.of(item) for item in call.items])

    async def set_tags(self, call: Call[ExecutionSetTags]) -> Sequence[Any]:
        return await self._machine.run_many([ops.SetTags.of(item) for item in call.items])

    async def replay(self, call: Call[ExecutionReplay]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._replay, call.items), return_exceptions=True)

    async def _replay(self, item: ExecutionReplay) -> Replayed:
        async def make(execution_id: str, again: bool = False) -> Replayed:
            return await replayed(self._machine, item, execution_id, again=again)

        partition = partition_of(item.execution_id)
        if item.idempotency_key is None:
            return await make(self._machine.new_id(partition))
        # The old execution's namespace is unknown here. Keys of replays are kept apart by their verb.
        return await once(self._machine, "replay", "default", item, partition, make, Replayed)


async def replayed(
    machine: Machine, item: ExecutionReplay, execution_id: str, *, again: bool = False
) -> Replayed:
    """Replay an execution as a new one with this id. again: an earlier request settled the id (see `once`)."""
    replay = ops.Replay(
        id=execution_id, execution_id=item.execution_id, again=again, traceparent=item.traceparent
    )
    if item.input is not UNSET:
        # The request decoder made the payload JSON text, or None for null.
        replay.override, replay.input = True, None if item.input is None else str(item.input)
    made = await machine.run(replay)
    if made.edge_inputs is not UNSET:
        # The old execution got results from its flow's edges as input; merge them for the replay too.
        replay.override = True
        replay.input = merge(None if made.input is UNSET else made.input, made.edge_inputs)
        made = await machine.run(replay)
    return convert(made, Replayed, from_attributes=True)
