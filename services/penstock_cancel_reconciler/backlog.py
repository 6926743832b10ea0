"""cancel.backlog: flows and executions still to be stopped, partition by partition, soonest first."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from penstock.bus.calls import Call
from penstock.errors import invalid
from penstock.machine import Machine
from penstock.machine.ops import cancel_reconciler as ops
from penstock.messages.cancellation import BacklogItem, CancelBacklog

SAMPLE: Final = 256
"""About so many executions and flows are looked at for the age of the oldest, in even parts of all partitions."""


class _Place(msgspec.Struct, array_like=True):
    """The content of a cursor: where the next page begins. Flows (`f`) come before executions (`x`)."""

    partition: int
    kind: str = "f"
    id: str | None = None
    at: int | None = None


class Size(NamedTuple):
    """How much there is still to be stopped; age_ms: since when the oldest of those looked at next waits."""

    executions: int
    flows: int
    age_ms: int


class Backlog:
    """The handler of cancel.backlog."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def list(self, call: Call[CancelBacklog]) -> Sequence[Any]:
        item = call.items[0]
        place: _Place | None = _Place(0) if item.cursor is None else self._place(item.cursor)
        items: list[BacklogItem] = []
        while place is not None and len(items) < item.limit:
            rest = ops.Backlog(kind=place.kind, id=place.id, at=place.at, limit=item.limit - len(items))
            page = await self._machine.run(rest, at=place.partition)
            items += page.items
            place = self._next(place, page.next)
        cursor = msgspec.json.encode(place).decode() if place else None
        return [{"items": items, "cursor": cursor}]

    async def size(self) -> Size:
        """Return the size and age of the backlog. Raise PenstockError if a partition is out of reach."""
        sample = min(32, 1 + SAMPLE // self._machine.partitions)
        found = await self._machine.glance(ops.BacklogSize(sample=sample))
        ages = [here.now - here.oldest_at for here in found if here.oldest_at is not None]
        return Size(
            sum(here.executions for here in found), sum(here.flows for here in found), max(ages, default=0)
        )

    def _next(self, place: _Place, following: ops.Place | None) -> _Place | None:
        if following is not None:
            return _Place(place.partition, following.kind, following.id, following.at)
        if place.partition + 1 < self._machine.partitions:
            return _Place(place.partition + 1)
        return None

    def _place(self, cursor: str) -> _Place:
        try:
            place = msgspec.json.decode(cursor, type=_Place)
        except msgspec.MsgspecError:
            place = _Place(-1)
        if not (0 <= place.partition < self._machine.partitions and place.kind in ("f", "x")):
            raise invalid("cursor", "not one of this list")
        return place
