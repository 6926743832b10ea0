"""The journal as one run of a handler sees it: a copy in memory, and what the handler has asked it for."""

from collections.abc import Iterable
from typing import Final

from penstock.messages.journal import Entry, JournalOpened

ENDED: Final = frozenset({"done", "failed", "canceled"})
# Entries that no call asks for by its own key, so that they are never orphans.
_APART: Final = frozenset({"state", "compensating", "undo", "cut"})
MOST_NOTES: Final = 100

COMPENSATING: Final = "compensating:"
"""The key of the entry that says that this execution fails, and only undoes what it did."""


class LocalJournal:
    """The entries of one execution's journal."""

    def __init__(self, opened: JournalOpened | None, version: str | None) -> None:
        self.version = version if opened is None else opened.version
        """The version of the code that began the execution: this one's own, if nothing is journaled yet."""
        self.drift: list[str] = []
        """Keys of steps whose function or arguments are not those that were journaled."""
        self.closed = False
        """Whether the execution has ended, so that nothing is at its frontier: of a replay of a stored journal only."""
        self._entries: dict[str, Entry] = {}
        self._unasked: dict[str, None] = {}
        if opened is not None:
            self.add(opened.items)

    def add(self, entries: Iterable[Entry]) -> None:
        """Add entries that earlier runs have journaled."""
        for entry in entries:
            self._entries[entry.key] = entry
            if entry.kind not in _APART:
                self._unasked[entry.key] = None

    def keep(self, entry: Entry) -> None:
        """Keep an entry as it is stored now."""
        self._entries[entry.key] = entry

    def ask(self, key: str) -> Entry | None:
        """Return the entry of a call that the handler makes, or None if there is none yet."""
        self._unasked.pop(key, None)
        return self._entries.get(key)

    def of_kind(self, kind: str) -> list[Entry]:
        """Return the entries of one kind, in order."""
        return [entry for entry in self._entries.values() if entry.kind == kind]

    def look(self, key: str) -> Entry | None:
        """Return an entry without counting it as asked for."""
        return self._entries.get(key)

    @property
    def at_frontier(self) -> bool:
        """Whether the handler has come to where no earlier run has been: all that they journaled was asked for."""
        return not self._unasked and not self.closed

    def pass_over(self, keys: Iterable[str]) -> None:
        """Note that these entries are no orphans: they are of branches that lost a race, and nobody asks for them."""
        for key in keys:
            self._unasked.pop(key, None)

    def orphans(self) -> list[str]:
        """Return the first hundred keys that the handler did not ask for."""
        return list(self._unasked)[:MOST_NOTES]

    def note_drift(self, key: str) -> None:
        if len(self.drift) < MOST_NOTES:
            self.drift.append(key)
