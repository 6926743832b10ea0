"""lane.stats and failure.groups: read what the audit-relay has counted and written down."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from penstock.bus.calls import Call
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.messages.statistics import (
    Counts,
    FailureGroup,
    FailureGroups,
    LaneStats,
    LaneStatsGet,
    Latency,
)
from penstock.statistics import minutes
from penstock.statistics.minutes import EVERY_LANE, KEPT, MINUTE_MS, Minute
from penstock.statistics.sketch import Sketch

HOME: Final = 0
"""The partition that keeps the statistics."""
QUARTER: Final = 15
_group: Final = msgspec.json.Decoder(FailureGroup).decode


class Statistics:
    """Handlers that read statistics, and `group` for the filter of a search."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def lane_stats(self, call: Call[LaneStatsGet]) -> Sequence[Any]:
        return [await self._lane(item) for item in call.items]

    async def failure_groups(self, call: Call[FailureGroups]) -> Sequence[Any]:
        item = call.items[0]
        reply = await self._machine.run(ops.FailureGroups(), at=HOME)
        groups = (_group(text) for text in reply.texts)
        found = [
            each
            for each in groups
            if item.namespace in (None, each.namespace)
            and item.kind in (None, each.kind)
            and item.category in (None, each.category)
        ]
        return [{"items": found[: item.limit], "cursor": None}]

    async def group(self, id: str) -> FailureGroup | None:
        """Return the failure group with this id, or None."""
        reply = await self._machine.run(ops.FailureGroups(group=id), at=HOME)
        return _group(reply.texts[0]) if reply.texts else None

    async def _lane(self, item: LaneStatsGet) -> LaneStats:
        reply = await self._machine.run(ops.LaneMinutes(lane=item.lane or EVERY_LANE), at=HOME)
        this = reply.now // MINUTE_MS
        kept = sorted(map(minutes.decode, reply.texts), key=lambda each: each.minute)
        kept = [each for each in kept if this - KEPT < each.minute]
        return LaneStats(
            lane=item.lane,
            minutes=[_counts(each) for each in kept if this - item.minutes < each.minute],
            last_15m=_sum((each for each in kept if this - QUARTER < each.minute), this - QUARTER + 1),
            last_24h=_sum(kept, this - KEPT + 1),
        )


def _sum(some: Iterable[Minute], first: int) -> Counts:
    total = Minute(first)
    for each in some:
        total.merge(each)
    return _counts(total)


def _counts(minute: Minute) -> Counts:
    return Counts(
        at=minute.minute * MINUTE_MS,
        created=minute.created,
        started=minute.started,
        completed=minute.completed,
        failed=minute.failed,
        canceled=minute.canceled,
        retried=minute.retried,
        reclaimed=minute.reclaimed,
        wait=_latency(minute.wait),
        run=_latency(minute.run),
    )


def _latency(sketch: Sketch) -> Latency:
    return Latency(
        count=sketch.count, p50=sketch.quantile(0.5), p95=sketch.quantile(0.95), p99=sketch.quantile(0.99)
    )
