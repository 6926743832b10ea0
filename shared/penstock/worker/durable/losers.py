"""What the journal keeps of branches that were given up, so that every later run goes on as the run that gave them up.

Later runs of `task.first` do not start them. Later runs of `task.parallel(failures="cancel")` do, for what they have
registered (compensations) is still to be known; but only as far as the journal goes, where they are canceled again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, cast

from penstock.bus.payloads import raw_of
from penstock.messages.journal import Entry, NewEntry
from penstock.worker.durable.branches import Branch
from penstock.worker.durable.errors import name_in
from penstock.worker.durable.journal import ENDED, LocalJournal
from penstock.worker.durable.state import State

MOST_LEFT: Final = 1000
"""At most so many calls of branches that were given up are kept."""


class Left(NamedTuple):
    """What branches had done when they were given up.

    keys: of the calls that they had made. state: of each name of `task.state` that they had assigned, how many
    assignments there had been.
    """

    keys: Sequence[str] = ()
    state: Mapping[str, int] = {}

    @classmethod
    def of(cls, state: State, branches: Iterable[Branch], more: Iterable[str] = ()) -> Self:
        """Return what these branches have done in this run, with `more` keys, and forget what they have assigned."""
        branches = list(branches)
        names = {name for branch in branches for name in branch.assigned}
        calls = dict.fromkeys([*more, *(key for branch in branches for key in branch.keys)])
        return cls(list(calls)[:MOST_LEFT], state.leave(names))

    @classmethod
    def read(cls, entry: Entry) -> Self:
        """Return what an entry of kind `first` or `cut` tells of it."""
        stored: Any = entry.result
        if not isinstance(stored, dict):  # a race of which nothing was left: its result is the winner's name
            return cls()
        told = cast("dict[str, Any]", stored)
        return cls(told.get("left", ()), told.get("state", {}))

    def stored(self) -> dict[str, Any]:
        """Return this as part of an entry's result."""
        return ({"left": self.keys} if self.keys else {}) | ({"state": self.state} if self.state else {})


def open_calls(journal: LocalJournal, branches: Iterable[Branch]) -> list[str]:
    """Return the keys of calls that were begun inside these branches and have not ended. Children go on."""
    entries = (journal.look(key) for branch in branches for key in branch.keys)
    return [
        entry.key
        for entry in entries
        if entry is not None and entry.status not in ENDED and entry.kind != "child"
    ]


class Cut(NamedTuple):
    """One `task.parallel` that was cut at its first failure.

    lost: the places of the branches that were given up: all others had ended. failed: a call of the one that failed.
    unasked: calls that only earlier runs had made in them, or in branches beside them.
    """

    depth: int
    left: Left
    lost: Sequence[int] = ()
    failed: str | None = None
    unasked: Sequence[str] = ()

    def entry(self) -> NewEntry | None:
        """Return the entry that tells later runs of it, or None if there is nothing to know it by."""
        key = next(iter(self.left.keys), self.failed)
        if key is None:
            return None
        told = {"depth": self.depth, **self.left.stored(), "lost": self.lost}
        told |= {name: value for name in ("failed", "unasked") if (value := getattr(self, name))}
        return NewEntry(
            # One cut inside another may have the same first call.
            key=f"{Cuts.KIND}:{self.depth}:{key}"[:512],
            kind=Cuts.KIND,
            name=name_in(key),
            status="done",
            raw_result=raw_of(told),
        )

    @classmethod
    def read(cls, entry: Entry) -> Self:
        stored: Any = entry.result
        unasked = stored.get("unasked", ())
        return cls(stored["depth"], Left.read(entry), stored["lost"], stored.get("failed"), unasked)


class Cuts:
    """The branches of `task.parallel(failures="cancel")` that earlier runs have given up, by the calls they made."""

    KIND: Final = "cut"

    def __init__(self, entries: Iterable[Entry]) -> None:
        # A call belongs to its branch and to those around it: the depth says which of them was given up.
        self._lost: set[tuple[int, str]] = set()
        self._by_call: dict[tuple[int, str], Cut] = {}
        self.passed_over: list[str] = []
        """Keys that later runs need not ask for."""
        for cut in map(Cut.read, entries):
            lost = [(cut.depth, key) for key in cut.left.keys]
            self._lost.update(lost)
            self._by_call.update(dict.fromkeys(lost, cut))
            if cut.failed is not None:
                self._by_call[cut.depth, cut.failed] = cut
            self.passed_over += [*cut.left.keys, *cut.unasked]

    def __bool__(self) -> bool:
        return bool(self._by_call)

    def find(self, depth: int, keys: Iterable[str]) -> Cut | None:
        """Return where an earlier run has cut branches at this depth, if one of these calls was made in them."""
        found = (self._by_call.get((depth, key)) for key in keys)
        return next((cut for cut in found if cut is not None), None)

    def include(self, branch: Branch, key: str) -> bool:
        """Return whether a call is made in a branch that an earlier run has given up. Note that of the branch."""
        around: Branch | None = branch
        found = False
        while around is not None:
            if around.until == "cancel" and (around.depth, key) in self._lost:
                around.lost = True
            found = found or around.lost
            around = around.parent
        return found
