"""execution.fork, .query and .versions: durable functions, seen from outside."""

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from penstock import errors
from penstock.bus.calls import Call
from penstock.errors import invalid
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.idempotency import once
from penstock.machine.ops import scheduler as ops
from penstock.messages.journal import ExecutionFork, ExecutionQuery, ExecutionVersions, Forked, VersionCount


class Durable:
    """Handlers of what people ask about durable functions."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def fork(self, call: Call[ExecutionFork]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._fork, call.items), return_exceptions=True)

    async def _fork(self, item: ExecutionFork) -> Forked:
        if item.after_key is not None and item.before_key is not None:
            raise invalid("before_key", "a fork has after_key or before_key, not both")

        async def make(execution_id: str, again: bool = False) -> Forked:
            copied = await self._copy(item, execution_id)
            # The request decoder made the payload JSON text, or None for null.
            given: Any = None if item.input is UNSET else item.input
            fork = ops.Fork(
                id=execution_id,
                again=again,
                execution_id=item.execution_id,
                override=item.input is not UNSET,
                input=given,
                journal=copied.journal,
                traceparent=item.traceparent,
            )
            return await self._machine.run(fork)

        partition = partition_of(item.execution_id)
        if item.idempotency_key is None:
            return await make(self._machine.new_id(partition))
        # The old execution's namespace is unknown here. Keys of forks are kept apart by their verb.
        return await once(self._machine, "fork", "default", item, partition, make, Forked)

    async def _copy(self, item: ExecutionFork, execution_id: str) -> ops.Copied:
        """Copy the journal, a part in each call: nobody sees the fork before it has all of it."""
        edits: list[Any] = [(edit.key, edit.raw_result) for edit in item.edits]
        unknown = {edit.key for edit in item.edits}
        copied = ops.Copied()
        while copied.more:
            part = ops.CopyJournal(
                id=execution_id,
                execution_id=item.execution_id,
                after_key=item.after_key,
                before_key=item.before_key,
                edits=[ops.NewResult(key, result) for key, result in edits],
                place=copied.place,
                journal=copied.journal,
            )
            copied = await self._machine.run(part)
            unknown -= set(copied.edited)
        if unknown and not copied.there:
            why = "an edit names an entry that is not copied"
            raise errors.make("journal_entry_not_found", why, detail={"key": min(unknown)})
        return copied

    async def query(self, call: Call[ExecutionQuery]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Query.of(item) for item in call.items])

    async def versions(self, call: Call[ExecutionVersions]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._versions, call.items), return_exceptions=True)

    async def _versions(self, item: ExecutionVersions) -> dict[str, Any]:
        """Add the partitions up. The oldest execution of a version is the first by its id without the partition."""
        replies = await self._machine.everywhere(ops.Versions(kind=item.kind))
        found: dict[str, VersionCount] = {}
        for here in (each for reply in replies for each in reply.items):
            seen = found.setdefault(here.version, VersionCount(version=here.version, open=0))
            seen.open += here.open
            both = [each for each in (seen.oldest, here.oldest) if each]
            seen.oldest = min(both, key=lambda each: each.partition("-")[2])
        return {"items": sorted(found.values(), key=lambda each: each.version), "cursor": None}
