"""journal.open, .append, .read and lease.park: what a durable function has done, and what it waits for."""

import asyncio
from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.errors import PenstockError, invalid, make
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.journal import MOST_WAITS, EntryToStore, entry_of, page, stored_form
from penstock.machine.ops import lease_keeper as ops
from penstock.machine.references import References
from penstock.messages.common import Fence
from penstock.messages.journal import (
    Appended,
    JournalAppend,
    JournalAppended,
    JournalOpen,
    JournalOpened,
    JournalRead,
    LeasePark,
    NewEntry,
    Parked,
)


class Journals:
    """Handlers of the verbs on journals. A worker may repeat each call with the same fence."""

    def __init__(self, machine: Machine, references: References) -> None:
        self._machine = machine
        self._references = references

    async def open(self, call: Call[JournalOpen]) -> Sequence[Any]:
        afters = [int(item.cursor or 0) for item in call.items]
        replies = await self._machine.run_many(
            [ops.JournalOpen.of(item, after=after) for item, after in zip(call.items, afters, strict=True)]
        )
        return [
            reply if isinstance(reply, PenstockError) else page(reply, after)
            for reply, after in zip(replies, afters, strict=True)
        ]

    async def read(self, call: Call[JournalRead]) -> Sequence[Any]:
        item = call.items[0]
        after = int(item.cursor or 0)
        read: JournalOpened = page(await self._machine.run(ops.JournalRead.of(item, after=after)), after)
        return [{"items": read.items, "cursor": read.cursor}]

    async def append(self, call: Call[JournalAppend]) -> Sequence[Any]:
        # All start in one loop tick, so that their ops leave as one batch.
        return await asyncio.gather(*map(self._append, call.items), return_exceptions=True)

    async def _append(self, item: JournalAppend) -> JournalAppended:
        entries = await self._entries(item, item.entries)
        done = await self._machine.run(ops.JournalAppend.of(item, entries=entries))
        return JournalAppended(results=_results(done.results), count=done.count, bytes=done.bytes)

    async def park(self, call: Call[LeasePark]) -> Sequence[Any]:
        return await asyncio.gather(*map(self._park, call.items), return_exceptions=True)

    async def _park(self, item: LeasePark) -> Parked:
        _check(item)
        entries = await self._entries(item, item.entries)
        hold = None
        if item.hold is not None:
            hold = ops.HeldBack(item.hold.code, item.hold.key, item.hold.message or None)
        done = await self._machine.run(ops.Park.of(item, entries=entries, any=item.mode == "any", hold=hold))
        return Parked(
            outcome=done.outcome,  # pyright: ignore[reportArgumentType] - one of the contract's
            wake_at=done.wake_at,
            results=_results(done.results),
            items=[entry_of(each) for each in done.items],
        )

    async def _entries(self, item: Fence, entries: Sequence[NewEntry]) -> list[EntryToStore]:
        """Return the entries in the state machine's form. Raise PenstockError if one of them is wrong."""
        children = {n: entry.child for n, entry in enumerate(entries) if entry.child is not None}
        namespace = "default"
        if children:
            for index, error in (await self._references.missing(list(children.values()))).items():
                n = list(children)[index]
                raise make(error.code, f"entries[{n}].child: {error.message}", detail=error.detail)
            if any(child.concurrency_key is not None for child in children.values()):
                namespace = (await self._machine.run(ops.Namespace(execution_id=item.execution_id))).namespace
        machine, partition = self._machine, partition_of(item.execution_id)
        return [
            stored_form(entry, f"entries[{n}]", machine.new_id(partition), namespace, machine.partitions)
            for n, entry in enumerate(entries)
        ]


def _check(item: LeasePark) -> None:
    if item.hold is not None and (item.keys or any(e.status in ("waiting", "retry") for e in item.entries)):
        raise invalid("hold", "an operator ends it: it goes with no wait")
    if len(item.keys) + len(item.entries) > MOST_WAITS:
        raise invalid("keys", f"with the entries at most {MOST_WAITS}")


def _results(results: Sequence[ops.AppendResult]) -> list[Appended]:
    return [
        Appended(
            key=each.key,
            outcome=each.outcome,  # pyright: ignore[reportArgumentType] - one of the contract's
            entry=None if each.entry is None else entry_of(each.entry),
        )
        for each in results
    ]
