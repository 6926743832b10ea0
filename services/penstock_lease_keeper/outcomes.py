"""lease.complete, .fail, .cancel, .delay and .await_children: a worker ends its own lease."""

import asyncio
from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.errors import make
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.ops import lease_keeper as ops
from penstock.machine.references import References
from penstock.machine.specs import NewExecution, new_execution
from penstock.messages.leases import (
    Completed,
    LeaseAwaitChildren,
    LeaseCancel,
    LeaseComplete,
    LeaseDelay,
    LeaseFail,
)


class Outcomes:
    """Handlers that end a lease; a worker may repeat each call with the same fence."""

    def __init__(self, machine: Machine, references: References) -> None:
        self._machine = machine
        self._references = references

    async def complete(self, call: Call[LeaseComplete]) -> Sequence[Any]:
        if not any(item.children or item.continues for item in call.items):
            return await self._machine.run_many([_complete(item) for item in call.items])
        # Start all in one loop tick, so that their ops still leave as one batch.
        return await asyncio.gather(*map(self._complete, call.items), return_exceptions=True)

    async def _complete(self, item: LeaseComplete) -> Completed:
        for index, error in (await self._references.missing(item.children)).items():
            raise make(error.code, f"children[{index}]: {error.message}", detail=error.detail)
        children = await self._children(item) if item.children else None
        following = None
        if item.continues is not None:
            # The request decoder made the payload JSON text, or None for null.
            text: Any = item.continues.raw_input
            following = ops.Next(self._machine.new_id(partition_of(item.execution_id)), text)
        return await self._machine.run(_complete(item, children, following))

    async def _children(self, item: LeaseComplete) -> list[NewExecution]:
        """Prepare the children. A child belongs to its parent's namespace and lives in its parent's partition."""
        namespace = "default"
        if any(child.concurrency_key is not None for child in item.children):
            namespace = (await self._machine.run(ops.Namespace(execution_id=item.execution_id))).namespace
        machine, partition = self._machine, partition_of(item.execution_id)
        return [
            new_execution(child, machine.new_id(partition), namespace, machine.partitions)
            for child in item.children
        ]

    async def fail(self, call: Call[LeaseFail]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Fail.of(item) for item in call.items])

    async def cancel(self, call: Call[LeaseCancel]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Cancel.of(item) for item in call.items])

    async def delay(self, call: Call[LeaseDelay]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Delay.of(item) for item in call.items])

    async def await_children(self, call: Call[LeaseAwaitChildren]) -> Sequence[Any]:
        return await self._machine.run_many([ops.AwaitChildren.of(item) for item in call.items])


def _complete(
    item: LeaseComplete, children: list[NewExecution] | None = None, following: ops.Next | None = None
) -> ops.Complete:
    notes = item.journal
    return ops.Complete.of(
        item,
        children=children,
        next=following,
        orphans=notes.orphans or None if notes else None,
        drift=notes.drift or None if notes else None,
    )
