"""What the journal keeps of branches that were given up, so that every later run goes on as the run that gave them up.

Later runs of `task.first` do not start them. Later runs of `task.parallel(failures="cancel")` do, for what they have
registered (compensations) is still to be known; but only as far as the journal goes, where they are canceled again.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

from penstock.bus.payloads import raw_of
from penstock.messages.journal import Entry, NewEntry
from penstock.worker.durable.branches import Branch
from penstock.worker.durable.errors import name_in
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
        made = [key for branch in branches for key in branch.keys]
        names = {name_in(key) for key in made if key.startswith("state:")}
        calls = dict.fromkeys([*(key for key in made if not key.startswith("state:")), *more])
        return cls(list(calls)[:MOST_LEFT], state.leave(names))

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        return cls(stored.get("left", ()), stored.get("state", {}))

    def stored(self) -> dict[str, Any]:
        """Return this as part of an entry's result."""
        return ({"left": self.keys} if self.keys else {}) | ({"state": self.state} if self.state else {})


class Cuts:
    """The branches of `task.parallel(failures="cancel")` that earlier runs have given up, by the calls they made."""

    KIND: Final = "cut"

    def __init__(self, entries: Iterable[Entry]) -> None:
        # A call belongs to its branch and to those around it: the depth says which of them was given up.
        self._by_call: dict[tuple[int, str], Left] = {}
        for entry in entries:
            stored: Any = entry.result
            left = Left.read(stored)
            for key in left.keys:
                self._by_call[stored["depth"], key] = left

    def __bool__(self) -> bool:
        return bool(self._by_call)

    @property
    def keys(self) -> list[str]:
        """The calls that these branches had made."""
        return [key for _, key in self._by_call]

    def find(self, depth: int, keys: Iterable[str]) -> Left | None:
        """Return what an earlier run has left at this depth, if one of these calls was among it."""
        found = (self._by_call.get((depth, key)) for key in keys)
        return next((left for left in found if left is not None), None)

    def include(self, branch: Branch, key: str) -> bool:
        """Return whether a call is made in a branch that an earlier run has given up. Note that of the branch."""
        around: Branch | None = branch
        found = False
        while around is not None:
            if around.until == "cancel" and (around.depth, key) in self._by_call:
                around.lost = True
            found = found or around.lost
            around = around.parent
        return found

    @classmethod
    def entry(cls, depth: int, left: Left) -> NewEntry:
        first = left.keys[0]
        return NewEntry(
            key=f"{cls.KIND}:{first}"[:512],
            kind=cls.KIND,
            name=name_in(first),
            status="done",
            raw_result=raw_of({"depth": depth, **left.stored()}),
        )
