"""A plain-Python model of how the members of a flow affect each other (contract §5).

Ops change members first. The work that follows from ended members is queued, and done in order at the end of the
call (`settle`).
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

TERMINAL = frozenset({"completed", "failed", "canceled"})
ACTIVE = frozenset({"running", "waiting"})


@dataclass
class Member:
    key: str
    attempts: int
    state: str = "scheduled"
    outcome: str | None = None
    attempt: int = 0
    granted: bool = False
    """A grant holds it, so that no other worker can get it until the grant expires."""
    children: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    policy: str = "all_of"
    k: int = 0
    cancel_remaining: bool = False
    ok: int = 0
    dead: int = 0
    decided: str | None = None

    def satisfied(self) -> bool:
        match self.policy:
            case "any_of":
                return self.ok >= 1
            case "quorum":
                return self.ok >= self.k
            case _:
                return self.ok == len(self.parents)

    def impossible(self) -> bool:
        match self.policy:
            case "any_of":
                return self.dead == len(self.parents)
            case "quorum":
                return len(self.parents) - self.dead < self.k
            case _:
                return self.dead > 0


class Flow:
    """A flow: `members` by key, in order, and the flow's `status`."""

    def __init__(self, members: list[Member]) -> None:
        self.members = {member.key: member for member in members}
        self.status = "created"
        self.cancel_requested = False
        self._work: deque[tuple[str, Any]] = deque()

    # -- ops --------------------------------------------------------------------------------------

    def start(self) -> str | None:
        """Start the flow. Return the code of the refusal, or None."""
        if self.status in ("finished", "failed", "cancelled"):
            return "already_terminal"
        if self.cancel_requested:
            return "cancel_pending"
        if self.status != "created":
            return "illegal_transition"
        self.status = "running"
        self._work.append(("roots", None))
        self.settle()
        return None

    def end(self, key: str, state: str, outcome: str | None = None) -> None:
        member = self.members[key]
        member.state, member.outcome = state, outcome or state
        if self.status in ACTIVE:
            self._work.append(("ended", (key, member.outcome)))

    def give_back(self, key: str, state: str) -> None:
        """Move a member whose lease ends before its work does. In a cancelled flow it gets no other lease."""
        if self.status == "cancelled":
            self.end(key, "canceled")
        else:
            self.members[key].state = state

    def fail(self, key: str) -> None:
        member = self.members[key]
        if member.attempt < member.attempts:
            self.give_back(key, "retry_wait")
        else:
            self.end(key, "failed")

    # -- the work that follows --------------------------------------------------------------------

    def settle(self, looks: bool = False) -> None:
        """End a call: do all queued work, and finish the flow if all members have ended (with `looks`, in any case)."""
        if not self._work and not looks:
            return
        while self._work:
            kind, about = self._work.popleft()
            if self.status not in ACTIVE and kind != "sweep":
                continue
            getattr(self, f"_{kind}")(about)
        if self._ends_with_members() and all(each.state in TERMINAL for each in self.members.values()):
            self._conclude("finished")

    def _ends_with_members(self) -> bool:
        """Return whether the flow ends with its last member: it runs, or it waits but may not run again."""
        return self.status == "running" or (self.status == "waiting" and self.cancel_requested)

    def _conclude(self, status: str) -> None:
        self.status = "cancelled" if self.cancel_requested else status

    def _skip(self, key: str) -> None:
        if self.members[key].state not in TERMINAL:
            self.end(key, "canceled", "skipped")

    def _roots(self, _: None) -> None:
        for member in self.members.values():
            if member.state in TERMINAL:
                self._work.append(("ended", (member.key, member.outcome)))
            elif not member.parents:
                member.state = "ready"

    def _ended(self, about: tuple[str, str]) -> None:
        key, outcome = about
        bad = outcome in ("failed", "canceled")
        absorbed = True
        for child in self.members[key].children:
            if not self._parent_ended(self.members[child], outcome == "completed"):
                absorbed = False
        if bad and not (absorbed and self.members[key].children):
            self._conclude("failed")
            self._work.append(("sweep", None))

    def _parent_ended(self, child: Member, ok: bool) -> bool:
        """Count an ended parent in the child's join. Return whether the join can do without that parent."""
        if ok:
            child.ok += 1
        else:
            child.dead += 1
        if child.decided is None:
            if child.satisfied():
                child.decided = "run"
                if child.state == "scheduled" and self.status == "running":
                    child.state = "ready"
                if child.cancel_remaining:
                    self._work.append(("siblings", child.key))
            elif child.impossible():
                child.decided = "skip"
                self._skip(child.key)
        return child.decided != "skip"

    def _siblings(self, key: str) -> None:
        for parent in self.members[key].parents:
            self._skip(parent)

    def _sweep(self, _: None) -> None:
        for member in self.members.values():
            if member.state not in ("leased", "running"):
                self._skip(member.key)
