"""Counts what happens to executions, from the audit events that have entered the stream.

Only the event `created` names an execution's lane and kind. They are remembered for as long as the execution lives, and
looked up in Valkey where that is not known (this relay has just begun, or there are too many): `strangers`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from penstock.messages.statistics import FailureGroup
from penstock.statistics.minutes import EVERY_LANE, MINUTE_MS, Minute
from penstock.statistics.reasons import group_of, normalized

REMEMBERED: Final = 50_000
"""The most executions that are remembered: about 15 MB."""
GROUPS: Final = 2_000
"""The most failure groups, and minutes of lanes, between two times that they are written down; others are left out."""
STRANGERS: Final = 5_000
"""The most events of executions that are not known, between two looks; those beyond count for no lane of their own."""
_COUNTED: Final = {
    "created": "created",
    "started": "started",
    "completed": "completed",
    "failed": "failed",
    "canceled": "canceled",
    "retry_wait": "retried",
    "reclaimed": "reclaimed",
}
_ENDS: Final = frozenset({"completed", "failed", "canceled"})


class Told(Struct, gc=False):
    """What is counted of an event of an execution. to: the state that it moved to."""

    id: str
    namespace: str
    event: str
    at: int
    to: str
    reason: str
    data: Any


def is_counted(event: str, to: str) -> bool:
    """Return whether anything is counted of an execution's event that moves it to the state `to` ('': to none)."""
    return bool(to) or event in _COUNTED


class Known(Struct):
    """An execution that has not ended. ready_at: None once its wait was counted."""

    lane: str
    kind: str
    ready_at: int | None = None
    started_at: int | None = None


class Counts:
    """What was counted since it was last taken: minutes by (lane, minute), and failure groups by id."""

    def __init__(self) -> None:
        self.minutes: dict[tuple[str, int], Minute] = {}
        self.groups: dict[str, FailureGroup] = {}
        self.strangers: list[Told] = []
        self._known: dict[str, Known] = {}
        # The minutes that an event of a lane counts in, so that they are not looked up for each event.
        self._together: dict[tuple[str, int], tuple[Minute, ...]] = {}

    def count(self, event: Told) -> None:
        """Count an event, or keep it in `strangers`."""
        known = self._known.get(event.id)
        if known is None:
            if event.event == "created" and isinstance(event.data, Mapping):
                known = Known(str(event.data.get("lane")), str(event.data.get("kind")))
                self._remember(event.id, known)
            elif len(self.strangers) < STRANGERS:
                self.strangers.append(event)
                return
        self._count(event, known)

    def meet(self, facts: Callable[[str], Known | None]) -> None:
        """Count the strangers, of whom `facts` knows more."""
        strangers, self.strangers = self.strangers, []
        for event in strangers:
            known = self._known.get(event.id)
            if known is None and (known := facts(event.id)) is not None:
                self._remember(event.id, known)
            self._count(event, known)

    def _remember(self, id: str, known: Known) -> None:
        if len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[id] = known

    def _count(self, event: Told, known: Known | None) -> None:
        lane, minute = EVERY_LANE if known is None else known.lane, event.at // MINUTE_MS
        counts = self._together.get((lane, minute)) or self._join(lane, minute)
        if (name := _COUNTED.get(event.event)) is not None:
            for each in counts:
                setattr(each, name, getattr(each, name) + 1)
        if known is not None:
            _time(event, known, counts)
            if event.event in ("failed", "retry_wait"):
                self._fail(event, known)
        if event.event in _ENDS:
            self._known.pop(event.id, None)

    def forget(self, minutes: Iterable[tuple[str, int]]) -> None:
        """Begin these minutes anew: they are written down."""
        self._together.clear()
        for key in minutes:
            del self.minutes[key]

    def _join(self, lane: str, minute: int) -> tuple[Minute, ...]:
        """Return the minutes that an event of this lane counts in: the lane's, and that of all lanes."""
        lanes = (EVERY_LANE,) if lane == EVERY_LANE or len(self.minutes) >= GROUPS else (EVERY_LANE, lane)
        found = tuple(self.minutes.setdefault((each, minute), Minute(minute)) for each in lanes)
        self._together[lane, minute] = found
        return found

    def _fail(self, event: Told, known: Known) -> None:
        data: Any = event.data if isinstance(event.data, Mapping) else {}
        reason, category = normalized(str(data.get("reason") or "")), event.reason
        id = group_of(event.namespace, known.kind, category, reason)
        group = self.groups.get(id)
        if group is None:
            if len(self.groups) >= GROUPS:
                return
            group = self.groups[id] = FailureGroup(
                group=id,
                namespace=event.namespace,
                kind=known.kind,
                category=category,
                reason=reason,
                first_at=event.at,
                last_at=event.at,
                sample_execution_id=event.id,
            )
        group.last_at, group.sample_execution_id = max(group.last_at, event.at), event.id
        if event.event == "failed":
            group.failed += 1
        else:
            group.retried += 1


def _time(event: Told, known: Known, counts: Iterable[Minute]) -> None:
    """Measure how long the execution waited and ran."""
    if event.to == "ready":
        known.ready_at = event.at
    elif event.to in ("leased", "running"):
        if known.ready_at is not None and known.ready_at <= event.at:
            for each in counts:
                each.wait.add(event.at - known.ready_at)
        known.ready_at = None
        if event.to == "running":
            known.started_at = known.started_at or event.at
    elif event.event in ("completed", "failed") and known.started_at is not None:
        for each in counts:
            each.run.add(max(0, event.at - known.started_at))


def merge(group: FailureGroup, earlier: FailureGroup) -> None:
    """Add to a group what was written of it before."""
    group.failed += earlier.failed
    group.retried += earlier.retried
    group.first_at = min(group.first_at, earlier.first_at)
    if earlier.last_at > group.last_at:
        group.last_at, group.sample_execution_id = earlier.last_at, earlier.sample_execution_id
