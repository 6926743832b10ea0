"""limits.blocked: the limits without room that hold back ready work, over all partitions."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from penstock.bus.calls import Call
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.machine.tokens import home_of
from penstock.messages.statistics import BlockedLimit, BlockedLimits, LimitsBlocked

SAMPLE: Final = 5


class Blocked:
    """The handler of limits.blocked."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def list(self, call: Call[LimitsBlocked]) -> Sequence[Any]:
        item = call.items[0]
        found = await self._machine.everywhere(ops.LimitsBlocked(lane=item.lane, limit=item.limit))
        limits: dict[str, BlockedLimit] = {}
        for here in found:
            for block in here.items:
                for token in block.tokens:
                    _add(limits.setdefault(token, BlockedLimit(kind="", id="", detail={}, waiting=0)), block)
        first = sorted(limits, key=lambda token: (-limits[token].waiting, token))[: item.limit]
        await asyncio.gather(*(self._describe(token, limits[token]) for token in first))
        more = len(limits) > item.limit or any(here.more for here in found)
        return [BlockedLimits(items=[limits[token] for token in first], more=more)]

    async def _describe(self, token: str, limit: BlockedLimit) -> None:
        home = home_of(token)
        use, holders = await asyncio.gather(
            self._machine.run(ops.LimitUse(token=token), at=home),
            self._machine.run(ops.LimitHolders(token=token), at=home),
        )
        limit.kind, limit.id = str(use.get("kind")), str(use.get("id"))
        limit.detail, limit.holders = use, holders.ids


def _add(limit: BlockedLimit, block: ops.BlockedHere) -> None:
    limit.waiting += block.waiting
    limit.lanes = sorted({*limit.lanes, *block.lanes})
    limit.sample = [*limit.sample, *block.sample][:SAMPLE]
    limit.look_again_at = max(limit.look_again_at or 0, block.until_at)
