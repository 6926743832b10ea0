"""The lease-keeper's operations of durable functions: the journal, and what an execution waits for."""

from typing import Any

from msgspec import Struct

from penstock.machine.journal import EntryStored, EntryToStore
from penstock.machine.op import Fenced, Op, op
from penstock.store.caller import MOST


@op("lease_keeper", by="execution_id", weight=24)
class JournalOpen(Fenced[list[Any]], kw_only=True):
    """Return a page of the journal (penstock.machine.journal.page). version, pin: recorded, unless one is."""

    version: str | None = None
    pin: bool = False
    after: int
    limit: int


@op("lease_keeper", by="execution_id", weight=24)
class JournalRead(Op[list[Any]], kw_only=True):
    execution_id: str
    after: int
    limit: int


class AppendResult(Struct):
    """outcome: stored or exists."""

    key: str
    outcome: str
    entry: EntryStored | None = None


class AppendDone(Struct):
    results: list[AppendResult]
    count: int
    bytes: int


@op("lease_keeper", by="execution_id")
class JournalAppend(Fenced[AppendDone], kw_only=True):
    """Store entries, all or none."""

    entries: list[EntryToStore]
    version: str | None = None
    pin: bool = False

    def cost(self) -> int:
        return _cost(self.entries, 0)


class HeldBack(Struct, omit_defaults=True):
    """What an operator has to decide."""

    code: str
    key: str | None = None
    message: str | None = None


class ParkDone(Struct):
    """outcome: suspended, already_satisfied or canceled."""

    outcome: str
    wake_at: int | None = None
    results: list[AppendResult] = []
    items: list[EntryStored] = []


@op("lease_keeper", by="execution_id")
class Park(Fenced[ParkDone], kw_only=True):
    """Store entries, and suspend until those of them that wait, and those of `keys`, have ended. any: one is enough."""

    entries: list[EntryToStore]
    keys: list[str]
    any: bool = False
    hold: HeldBack | None = None
    version: str | None = None
    pin: bool = False

    def cost(self) -> int:
        return _cost(self.entries, len(self.keys))


def _cost(entries: list[EntryToStore], keys: int) -> int:
    return min(MOST, 1 + (sum(entry.cost() for entry in entries) + keys) // 4)
