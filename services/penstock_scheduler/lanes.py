"""lane.list: how deep each lane is."""

import asyncio
from collections.abc import Sequence
from typing import Any

from penstock.bus.endpoints import Call
from penstock.messages.executions import LaneList
from penstock.store import Store


class Lanes:
    """Handlers about lanes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self, call: Call[LaneList]) -> Sequence[Any]:
        item = call.items[0]
        args = {"cursor": item.cursor, "limit": item.limit}
        replies = await asyncio.gather(
            *(self._store.call(partition, "lanes", args) for partition in range(self._store.partitions))
        )
        # Each partition gave its first lanes in alphabetical order: the first `limit` of all are complete.
        lanes: dict[str, dict[str, Any]] = {}
        for reply in replies:
            for part in reply["items"]:
                oldest = part.get("oldest_ready_at")
                age = None if oldest is None else max(0, reply["now"] - oldest)
                _add(lanes, part, age)
        page = sorted(lanes)[: item.limit]
        more = len(lanes) > item.limit or any(len(reply["items"]) == item.limit for reply in replies)
        return [{"items": [lanes[name] for name in page], "cursor": page[-1] if page and more else None}]


def _add(lanes: dict[str, dict[str, Any]], part: dict[str, Any], age: int | None) -> None:
    lane = lanes.setdefault(
        part["lane"],
        {
            "lane": part["lane"],
            "status": part["status"],
            "depth": dict.fromkeys(part["depth"], 0),
            "oldest_ready_age_ms": None,
        },
    )
    for state, count in part["depth"].items():
        lane["depth"][state] += count
    if age is not None:
        lane["oldest_ready_age_ms"] = max(age, lane["oldest_ready_age_ms"] or 0)
