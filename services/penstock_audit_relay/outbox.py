"""The Valkey side of the relay: takes outbox entries in order, buffers a few, trims those that the stream has."""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import audit_relay as ops
from penstock.throttle import Throttle
from penstock_audit_relay.entries import Entry, read

START: Final = "0"
ENTRIES: Final = 512
"""Most entries of one take."""
BYTES: Final = 256 * 1024
"""Most bytes of one round of takes, over all partitions."""
AT_HAND: Final = 4000
"""With this many events in the buffer, nothing more is taken."""
RETRY_S: Final = 1.0


def key(entry: str) -> tuple[int, int]:
    """Return what orders entry ids."""
    ms, _, number = entry.partition("-")
    return int(ms), int(number or 0)


class _Seen(NamedTuple):
    waiting: int
    since: float


class Outbox:
    """The outboxes of all partitions. An unreachable outbox does not delay the others."""

    def __init__(self, machine: Machine, log: Any) -> None:
        self.limit = 1024 * 1024
        """Most bytes of an event that fits in a message; `service.build` sets it."""
        self._machine = machine
        self._log = log
        self._all = range(machine.partitions)
        self._taken: dict[int, str] = {}
        self._confirmed: dict[int, str] = {}
        self._announced: set[int] = set()
        self._resting: dict[int, float] = {}
        self._woken = asyncio.Event()
        self._entries: deque[Entry] = deque()
        self._events = 0
        self._seen: dict[int, _Seen] = {}
        self._complaints = Throttle()
        self.behind: dict[int, ops.Taken] = {}
        """The partitions whose Valkey does not know the entries that were taken last (`rewound`). Nothing more is taken
        from any partition until `go_on` says from where."""

    def waiting_entries(self) -> int:
        """Return the number of outbox entries in Valkey, as last seen."""
        return sum(seen.waiting for seen in self._seen.values())

    def age(self) -> float:
        """Return the seconds that the oldest outbox entry has waited, as last seen."""
        now = time.monotonic()
        return max((now - seen.since for seen in self._seen.values() if seen.waiting), default=0.0)

    def wake(self, partition: int) -> None:
        """Announce new entries in the partition, and end `wait`."""
        if partition in self._all:
            self._announced.add(partition)
            self._woken.set()

    def rewind(self, cursor: Mapping[int, str]) -> None:
        """Drop the buffer and take again after the cursor's entries, which the stream has."""
        self._entries.clear()
        self._events = 0
        self.behind.clear()
        self._taken = dict(cursor)
        self._confirmed = {partition: entry for partition, entry in cursor.items() if partition in self._all}
        self._announced.update(self._all)

    def position(self, partition: int) -> str:
        """Return the last entry that was taken."""
        return self._taken.get(partition, START)

    def go_on(self, partition: int, entry: str) -> None:
        """Take again after this entry, in a partition that was `behind`."""
        self.behind.pop(partition, None)
        self._taken[partition] = entry
        self._confirmed.pop(partition, None)
        self._announced.add(partition)

    def confirm(self, cursor: Mapping[int, str]) -> None:
        """Let `exchange` trim up to the cursor's entries, which the stream has."""
        self._confirmed |= cursor

    @property
    def at_hand(self) -> bool:
        """Whether `gather` has more to return."""
        return bool(self._entries)

    @property
    def busy(self) -> bool:
        """Whether `exchange` or `gather` has work now."""
        return bool(self._entries or self.behind) or bool(
            (self._announced | self._confirmed.keys()) - self._tired()
        )

    def _tired(self) -> set[int]:
        now = time.monotonic()
        self._resting = {partition: until for partition, until in self._resting.items() if until > now}
        return set(self._resting)

    async def wait(self, timeout: float) -> None:
        """Wait for an announcement. After `timeout` seconds ask all partitions, since a hint may be lost."""
        if self._resting:
            timeout = max(0.0, min(timeout, min(self._resting.values()) - time.monotonic()))
        try:
            async with asyncio.timeout(timeout):
                await self._woken.wait()
        except TimeoutError:
            await self._sweep()
        self._woken.clear()

    async def _sweep(self) -> None:
        """Announce the partitions that have entries, or that are out of reach."""
        questions = [ops.Take(after=self.position(each), limit=0, bytes=0) for each in self._all]
        for partition, reply in enumerate(await self._machine.look(questions, self._all)):
            if isinstance(reply, PenstockError):
                self._announced.add(partition)
                continue
            self._look(partition, reply)
            if reply.waiting or reply.behind is not None:
                self._announced.add(partition)

    async def exchange(self) -> None:
        """Trim confirmed entries and take new ones, in one round trip for all partitions."""
        tired = self._tired()
        takes = self._announced - tired if self._events < AT_HAND and not self.behind else set[int]()
        acks = {partition: entry for partition, entry in self._confirmed.items() if partition not in tired}
        if not takes and not acks:
            return
        room = BYTES // max(1, len(takes))
        partitions = sorted(takes)
        trimming = self._machine.run_many([ops.Ack(upto=entry) for entry in acks.values()], list(acks))
        taking = self._machine.run_many(
            [
                ops.Take(after=self.position(partition), limit=ENTRIES, bytes=room, runs=True)
                for partition in partitions
            ],
            partitions,
        )
        self._announced -= takes  # an announcement during the round trip calls for another take
        all_trimmed, all_taken = await asyncio.gather(trimming, taking)
        for partition, trimmed in zip(acks, all_trimmed, strict=True):
            if isinstance(trimmed, PenstockError):
                self._rest(partition, trimmed)
                continue
            self._look(partition, trimmed)
            if trimmed.unknown:
                self._announced.add(partition)  # the next take finds how far this Valkey is behind
            if self._confirmed.get(partition) == acks[partition]:
                del self._confirmed[partition]
        for partition, taken in zip(partitions, all_taken, strict=True):
            if isinstance(taken, PenstockError):
                self._rest(partition, taken)
                self._announced.add(partition)
                continue
            self._look(partition, taken)
            self._add(partition, taken)

    async def look(self) -> None:
        """Refresh the counts of waiting entries while nothing can be relayed."""
        nothing = ops.Take(after=START, limit=0, bytes=0)
        for partition, reply in enumerate(
            await self._machine.run_many([nothing] * len(self._all), self._all)
        ):
            if not isinstance(reply, PenstockError):
                self._look(partition, reply)

    def stand_by(self) -> None:
        """Forget the counts of waiting entries: another relay leads and reports them."""
        self._seen.clear()

    def _look(self, partition: int, reply: ops.Waiting) -> None:
        self._seen[partition] = _Seen(reply.waiting, time.monotonic() - reply.age_ms / 1000)

    def _add(self, partition: int, reply: ops.Taken) -> None:
        if reply.behind is not None:
            self.behind[partition] = reply
            return
        for entry_id, blob in reply.entries:
            entry = read(partition, entry_id, blob, self.limit)
            self._entries.append(entry)
            self._events += len(entry.events)
            self._taken[partition] = entry_id
        if reply.more:
            self._announced.add(partition)

    async def waiting(self, partition: int, after: str, upto: str) -> list[Entry]:
        """Read the entries between two ids (the first excluded), without taking them. Raise PenstockError."""
        entries: list[Entry] = []
        while True:
            take = ops.Take(after=after, limit=ENTRIES, bytes=BYTES, runs=True)
            reply = await self._machine.run(take, at=partition)
            for after, blob in reply.entries:
                if key(after) > key(upto):
                    return entries
                entries.append(read(partition, after, blob, self.limit))
            if not reply.more:
                return entries

    def gather(self, events: int, size: int) -> list[Entry]:
        """Return the next entries: at most `events` events and about `size` bytes. Never split an entry."""
        entries: list[Entry] = []
        while self._entries and size > 0 and len(self._entries[0].events) <= events:
            entry = self._entries.popleft()
            events -= len(entry.events)
            size -= entry.size
            self._events -= len(entry.events)
            entries.append(entry)
        return entries

    def _rest(self, partition: int, error: PenstockError) -> None:
        self._resting[partition] = time.monotonic() + RETRY_S
        if self._complaints.passes():
            self._log.warning("an outbox is out of reach; trying on", partition=partition, error=str(error))
