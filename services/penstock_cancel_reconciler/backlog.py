"""cancel.backlog: what is still to be stopped, partition after partition, soonest first."""

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import make
from penstock.messages.cancellation import BacklogItem, CancelBacklog
from penstock.store import Store


class _Place(msgspec.Struct, array_like=True):
    """What a cursor says: where the next page begins. Flows (`f`) come before executions (`x`)."""

    partition: int
    kind: str = "f"
    id: str | None = None
    at: int | None = None


class Backlog:
    """The handler of cancel.backlog."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self, call: Call[CancelBacklog]) -> Sequence[Any]:
        item = call.items[0]
        place: _Place | None = _Place(0) if item.cursor is None else self._place(item.cursor)
        items: list[BacklogItem] = []
        while place is not None and len(items) < item.limit:
            args = {"kind": place.kind, "id": place.id, "at": place.at, "limit": item.limit - len(items)}
            page = await self._store.call(place.partition, "backlog", args)
            items += msgspec.convert(page["items"], list[BacklogItem])
            place = self._next(place, page.get("next"))
        cursor = msgspec.json.encode(place).decode() if place else None
        return [{"items": items, "cursor": cursor}]

    def _next(self, place: _Place, following: dict[str, Any] | None) -> _Place | None:
        if following is not None:
            return _Place(place.partition, **following)
        if place.partition + 1 < self._store.partitions:
            return _Place(place.partition + 1)
        return None

    def _place(self, cursor: str) -> _Place:
        try:
            place = msgspec.json.decode(cursor, type=_Place)
        except msgspec.MsgspecError:
            place = _Place(-1)
        if not (0 <= place.partition < self._store.partitions and place.kind in ("f", "x")):
            raise make("invalid_request", "cursor: not one of this list", detail={"field": "cursor"})
        return place
