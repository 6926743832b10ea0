"""Writes down what `counting` has counted: every few seconds, merged with what is written already."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.machine import Machine
from penstock.machine.ops import audit_relay as ops
from penstock.messages.statistics import FailureGroup
from penstock.statistics import minutes
from penstock.statistics.minutes import Minute
from penstock_audit_relay.counting import Counts, Known, merge

EVERY_S: Final = 2.0
HOME: Final = 0
"""The partition that keeps the statistics."""
SLICE: Final = 50
"""So many minutes, groups or executions are read or written in one call of the state machine."""

T = TypeVar("T")
_group: Final = msgspec.json.Decoder(FailureGroup).decode


class Writing:
    """The loop that writes down the counts. What a relay that is killed has not written is lost; what it has read from
    the outboxes but not published is counted by the next one."""

    def __init__(self, machine: Machine, counts: Counts, log: Any) -> None:
        self._machine = machine
        self._counts = counts
        self._log = log

    async def run(self) -> None:
        """Write until cancelled, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                await self._try()
        finally:
            await self._try()

    async def _try(self) -> None:
        try:
            await self.write()
        except PenstockError as error:
            self._log.info("statistics wait to be written down", error=str(error))

    async def write(self) -> None:
        """Write what was counted so far. Raise PenstockError if a partition is out of reach: the rest then waits."""
        if self._counts.strangers:
            await self._meet()
        while self._counts.minutes:
            await self._write_minutes(list(self._counts.minutes)[:SLICE])
        while self._counts.groups:
            await self._write_groups(list(self._counts.groups)[:SLICE])

    async def _meet(self) -> None:
        ids: dict[int, list[str]] = {}
        for id in dict.fromkeys(event.id for event in self._counts.strangers):
            ids.setdefault(partition_of(id), []).append(id)
        slices = [part for of in ids.values() for part in _slices(of)]
        replies = await self._machine.all_of(
            [ops.Facts(ids=part) for part in slices], [partition_of(part[0]) for part in slices]
        )
        found: dict[str, Known] = {}
        for part, reply in zip(slices, replies, strict=True):
            for id, facts in zip(part, reply.items, strict=True):
                if isinstance(facts, tuple):
                    found[id] = Known(facts[0], facts[1], facts[2] or None, facts[3] or None)
        self._counts.meet(found.get)

    async def _write_minutes(self, keys: Sequence[tuple[str, int]]) -> None:
        reply = await self._machine.run(ops.StatisticsRead(minutes=list(keys), groups=[]), at=HOME)
        new: list[tuple[str, int, str]] = []
        for (lane, minute), text in zip(keys, reply.minutes, strict=True):
            count = Minute(minute)
            count.merge(self._counts.minutes[lane, minute])
            if isinstance(text, str) and (written := minutes.decode(text)).minute == minute:
                count.merge(written)
            new.append((lane, minute, minutes.encode(count)))
        # What is counted while Valkey writes begins anew. Should the answer be lost, these minutes are not repeated:
        # a few seconds that are missing are better than some that count twice.
        self._counts.forget(keys)
        await self._machine.run(ops.StatisticsWrite(minutes=new, groups=[]), at=HOME)

    async def _write_groups(self, ids: Sequence[str]) -> None:
        reply = await self._machine.run(ops.StatisticsRead(minutes=[], groups=list(ids)), at=HOME)
        new: list[tuple[str, str, int]] = []
        for id, text in zip(ids, reply.groups, strict=True):
            group = self._counts.groups.pop(id)
            if isinstance(text, str):
                merge(group, _group(text))
            new.append((id, msgspec.json.encode(group).decode(), group.last_at))
        await self._machine.run(ops.StatisticsWrite(minutes=[], groups=new), at=HOME)


def _slices(items: list[T]) -> list[list[T]]:
    return [items[i : i + SLICE] for i in range(0, len(items), SLICE)]
