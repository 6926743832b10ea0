"""lane.list: how deep each lane is; lane.pause, .resume and .drain."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from penstock.bus.endpoints import Call
from penstock.errors import make
from penstock.messages.executions import LaneList
from penstock.messages.lanes import LaneChange
from penstock.store import Store

DECIDES: Final = 0
"""The partition that decides on a lane's status; the others follow it."""


class Lanes:
    """Handlers about lanes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self, call: Call[LaneList]) -> Sequence[Any]:
        item = call.items[0]
        replies = await self._everywhere("lanes", {"cursor": item.cursor, "limit": item.limit})
        # Each partition gave its first lanes in alphabetical order: the first `limit` of all are complete.
        lanes = _summed(replies)
        page = sorted(lanes)[: item.limit]
        more = len(lanes) > item.limit or any(len(reply["items"]) == item.limit for reply in replies)
        return [{"items": [lanes[name] for name in page], "cursor": page[-1] if page and more else None}]

    async def pause(self, call: Call[LaneChange]) -> Sequence[Any]:
        return [await self._change(call.items[0], "paused")]

    async def resume(self, call: Call[LaneChange]) -> Sequence[Any]:
        return [await self._change(call.items[0], "active")]

    async def drain(self, call: Call[LaneChange]) -> Sequence[Any]:
        return [await self._change(call.items[0], "draining")]

    async def _change(self, item: LaneChange, status: str) -> dict[str, Any]:
        """One partition decides, all follow: repeated after a crash in between, it makes up for the rest."""
        found = await self._everywhere("lane_known", {"lane": item.lane})
        if not any(reply["known"] for reply in found):
            raise make("lane_not_found", detail={"lane": item.lane})
        args = {"lane": item.lane, "status": status, "reason": item.reason}
        decided = await self._store.call(DECIDES, "lane_change", args)
        replies = await self._everywhere("lane_follow", {"lane": item.lane, **decided})
        return {**_summed(replies)[item.lane], "status": decided["status"]}

    async def _everywhere(self, op: str, args: dict[str, Any]) -> Sequence[dict[str, Any]]:
        return await asyncio.gather(
            *(self._store.call(partition, op, args) for partition in range(self._store.partitions))
        )


def _summed(replies: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    lanes: dict[str, dict[str, Any]] = {}
    for reply in replies:
        for part in reply["items"]:
            oldest = part.get("oldest_ready_at")
            _add(lanes, part, None if oldest is None else max(0, reply["now"] - oldest))
    return lanes


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
