"""`task.state`: a small map that anyone can read with `execution.query`, without a worker."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final

from penstock.bus.payloads import raw_of
from penstock.messages.journal import NewEntry
from penstock.worker.durable.appender import Appender
from penstock.worker.durable.branches import Branches, step_around
from penstock.worker.durable.errors import NestedStep
from penstock.worker.durable.identity import checked_name
from penstock.worker.durable.journal import LocalJournal

MOST: Final = 100


class State(MutableMapping[str, Any]):
    """What a durable function shows of itself: at most 100 names, each with a value that msgspec can encode.

    Assigning stores the value beside the next journal entry, or by itself. Reading gives what *this run* has
    assigned: the handler runs from its start each time, so that is the same in every run. A value is stored at
    assignment only: replace a list, do not append to it. What a branch has assigned that is then given up stays
    shown, but cannot be read any more: later runs do not assign it.
    """

    def __init__(self, appender: Appender, journal: LocalJournal, branches: Branches) -> None:
        self._appender = appender
        self._journal = journal
        self._branches = branches
        self._values: dict[str, Any] = {}
        self._changes: dict[str, int] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        """Raise `ValueError` or `TypeError` if the name is no name or the value cannot be encoded: nothing is
        stored.
        """
        inside = step_around()
        if inside is not None:
            raise NestedStep("state", inside)
        key = f"state:{checked_name(name)}"
        if name not in self._changes and len(self._changes) >= MOST:
            raise ValueError(f"task.state holds {MOST} names: {name!r} is one too many")
        raw = raw_of(value)
        self._values[name] = value
        self._branches.current().note_assigned(name)
        change = self._changes[name] = self._changes.get(name, 0) + 1
        stored = self._journal.look(key)
        if stored is None or stored.attempt < change:
            self._appender.add(
                NewEntry(key=key, kind="state", name=name, status="done", attempt=change, raw_result=raw)
            )

    def leave(self, names: Iterable[str]) -> dict[str, int]:
        """Forget the values of these names, and return how often each was assigned, in this run or an earlier one."""
        counts: dict[str, int] = {}
        for name in names:
            stored = self._journal.look(f"state:{name}")
            counts[name] = max(self._changes[name], 0 if stored is None else stored.attempt)
        self.skip(counts)
        return counts

    def skip(self, counts: Mapping[str, int]) -> None:
        """Go on as the run did in which these names were left, so that the next assignments are not taken for old."""
        for name, count in counts.items():
            self._changes[name] = max(self._changes.get(name, 0), count)
            self._values.pop(name, None)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __delitem__(self, name: str) -> None:
        raise TypeError("a name of task.state cannot be deleted: assign None")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
