"""lane.list: the depth of each lane. lane.pause, .resume and .drain: change a lane's status."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from penstock.bus.calls import Call
from penstock.errors import make
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.messages.executions import Lane, LaneList
from penstock.messages.lanes import LaneChange

DECIDES: Final = 0
"""The partition that decides on a lane's status; the other partitions follow it."""
SLICE: Final = 20
"""So many lanes are counted in one call of the state machine, where nobody asked for more: about a millisecond."""
Ask = Callable[[ops.Lanes], Awaitable[Sequence[ops.LanesHere]]]
"""How all partitions are asked."""


class Lanes:
    """Handlers for lanes."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def list(self, call: Call[LaneList]) -> Sequence[Any]:
        items, cursor = await self._page(self._machine.everywhere, call.items[0].cursor, call.items[0].limit)
        return [{"items": items, "cursor": cursor}]

    async def first(self, limit: int) -> Sequence[Lane]:
        """Return the first lanes by name, at most `limit`. Raise PenstockError if a partition is out of reach."""
        lanes, cursor = await self._page(self._machine.glance, None, min(limit, SLICE))
        while cursor is not None and len(lanes) < limit:
            more, cursor = await self._page(self._machine.glance, cursor, min(limit - len(lanes), SLICE))
            lanes = [*lanes, *more]
        return lanes

    async def _page(self, ask: Ask, cursor: str | None, limit: int) -> tuple[Sequence[Lane], str | None]:
        found = await ask(ops.Lanes(cursor=cursor, limit=limit))
        # Each partition returned its first lanes by name, so the sums of the first `limit` lanes are complete.
        lanes = _summed(found)
        page = sorted(lanes)[:limit]
        more = len(lanes) > limit or any(len(each.items) == limit for each in found)
        return [lanes[name] for name in page], page[-1] if page and more else None

    async def pause(self, call: Call[LaneChange]) -> Sequence[Any]:
        return [await self._change(call.items[0], "paused")]

    async def resume(self, call: Call[LaneChange]) -> Sequence[Any]:
        return [await self._change(call.items[0], "active")]

    async def drain(self, call: Call[LaneChange]) -> Sequence[Any]:
        return [await self._change(call.items[0], "draining")]

    async def _change(self, item: LaneChange, status: str) -> Lane:
        """Let one partition decide, then all follow. After a crash in between, a repeated call does the rest."""
        found = await self._machine.everywhere(ops.LaneKnown(lane=item.lane))
        if not any(each.known for each in found):
            raise make("lane_not_found", detail={"lane": item.lane})
        change = ops.LaneChange(lane=item.lane, status=status, reason=item.reason)
        decided = await self._machine.run(change, at=DECIDES)
        follow = ops.LaneFollow(lane=item.lane, status=decided.status, version=decided.version)
        lane = _summed(await self._machine.everywhere(follow))[item.lane]
        lane.status = decided.status
        return lane


def _summed(found: Sequence[ops.LanesHere]) -> dict[str, Lane]:
    lanes: dict[str, Lane] = {}
    for here in found:
        for part in here.items:
            depth = dict.fromkeys(part.depth, 0)
            lane = lanes.setdefault(part.lane, Lane(lane=part.lane, status=part.status, depth=depth))
            for state, count in part.depth.items():
                lane.depth[state] += count
            if part.oldest_ready_at is not None:
                age = max(0, here.now - part.oldest_ready_at)
                lane.oldest_ready_age_ms = max(age, lane.oldest_ready_age_ms or 0)
    return lanes
