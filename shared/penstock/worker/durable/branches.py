"""Which parts of a handler run side by side, and whether all of them wait.

The handler is the root branch; `task.parallel` and `task.first` add one for each of what they run. A branch knows
what it does: it runs a durable call, waits in one, or joins branches of its own. While all live branches wait, the
handler has nothing to do, and its execution can be suspended.
"""

import asyncio
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal, Self

_current: Final[ContextVar["Branch | None"]] = ContextVar("penstock_branch", default=None)
_inside: Final[ContextVar[str | None]] = ContextVar("penstock_step", default=None)

Until = Literal["wait", "cancel", "first"]
"""How long branches run side by side: until all have ended, until one has failed, or until one has ended."""


class Branch:
    """One branch of a handler."""

    __slots__ = (
        "assigned",
        "bare",
        "depth",
        "group",
        "joining",
        "keys",
        "lost",
        "parent",
        "running",
        "task",
        "until",
        "waiting",
    )

    def __init__(
        self,
        parent: "Branch | None" = None,
        *,
        group: object = None,
        bare: bool = False,
        until: Until = "wait",
    ) -> None:
        self.parent = parent
        # Branches of one `parallel` that waits for all of them share a group.
        self.group = group
        # It does nothing but wait in one call.
        self.bare = bare
        self.until: Until = until
        # How many branches, this one and those around it, are given up when another one fails.
        self.depth: int = (0 if parent is None else parent.depth) + (until == "cancel")
        # It was given up because another one has failed: in this run, or in an earlier one.
        self.lost = False
        # Keys of the calls that it, and its own branches, have made: of a branch that may be given up only.
        self.keys: list[str] = []
        # Names of `task.state` that were assigned in it: again of a branch that may be given up only.
        self.assigned: set[str] = set()
        self.task: asyncio.Task[Any] | None = None
        self.running = self.waiting = self.joining = 0

    @property
    def may_be_left_out(self) -> bool:
        """Whether later runs may not make its calls: it runs in a race, or was given up, at any depth."""
        return self.raced or self.lost or (self.parent is not None and self.parent.may_be_left_out)

    @property
    def in_race(self) -> bool:
        """Whether it runs in a race, at any depth."""
        return self.raced or (self.parent is not None and self.parent.in_race)

    @property
    def raced(self) -> bool:
        """Whether it may lose a race. Later runs do not start losers."""
        return self.until == "first"

    def note(self, key: str) -> None:
        """Note a call for each branch in which it is made that may be given up."""
        for branch in self._may_be_given_up():
            branch.keys.append(key)

    def note_assigned(self, name: str) -> None:
        """Note that a name of `task.state` is assigned, for the same branches."""
        for branch in self._may_be_given_up():
            branch.assigned.add(name)

    def _may_be_given_up(self) -> "Iterator[Branch]":
        branch: Branch | None = self
        while branch is not None:
            if branch.until != "wait":
                yield branch
            branch = branch.parent

    @property
    def idle(self) -> bool:
        """Whether it waits, for an entry or for its own branches, and runs nothing."""
        return not self.running and bool(self.waiting or self.joining)

    def is_within(self, other: "Branch") -> bool:
        """Whether this is `other` or one of its branches, at any depth."""
        branch: Branch | None = self
        while branch is not None:
            if branch is other:
                return True
            branch = branch.parent
        return False


class Branches:
    """The branches of one run of a handler."""

    def __init__(self) -> None:
        self.root = Branch()
        self.live: set[Branch] = {self.root}

    def current(self) -> Branch:
        """Return the branch that runs now. What a handler starts by itself belongs to the branch that started it."""
        branch = _current.get()
        return branch if branch is not None and branch.is_within(self.root) else self.root

    def caller(self) -> "Strand":
        return Strand(self.current(), _asyncio_task())

    def all_idle(self) -> bool:
        return all(branch.idle for branch in self.live)

    @contextmanager
    def within(self, branch: Branch) -> Generator[None]:
        """Make `branch` the current one for the length of a block, in an asyncio task of its own."""
        branch.task = asyncio.current_task()
        token = _current.set(branch)
        try:
            yield
        finally:
            _current.reset(token)
            self.live.discard(branch)


class Strand:
    """Who makes a call: a branch, and the asyncio task in which it does."""

    __slots__ = ("branch", "task")

    def __init__(self, branch: Branch, task: "asyncio.Task[Any] | None") -> None:
        self.branch, self.task = branch, task

    def may_follow(self, other: Self) -> bool:
        """Return whether this caller's calls come after those of `other` in every run.

        They do for the same asyncio task, for one that began after `other` had called (a branch of it), and for one
        that has awaited the end of `other`.
        """
        if other.task is self.task or other.task is None or self.task is None:
            return True
        if self._began_below(other):
            return True
        owner = self.branch.task
        return (
            other.task.done()
            and other.branch.is_within(self.branch)
            and (owner is None or owner is self.task)
            and (other.branch is self.branch or not other.branch.may_be_left_out)
        )

    def _began_below(self, other: Self) -> bool:
        branch = self.branch if self.branch.task is not self.task else self.branch.parent
        while branch is not None:
            if branch is other.branch and (branch.task is None or branch.task is other.task):
                return True
            branch = branch.parent
        return False


def _asyncio_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # a sync handler calls from its thread
        return None


def step_around() -> str | None:
    """Return the key of the step inside which this is called, or None."""
    return _inside.get()


@contextmanager
def inside_step(key: str) -> Generator[None]:
    """Mark a block as the inside of a step, also for threads and asyncio tasks that it starts."""
    token = _inside.set(key)
    try:
        yield
    finally:
        _inside.reset(token)
