"""`client.lanes` and `client.workers`: the queues of work, and the workers that serve them."""

from collections.abc import AsyncIterator
from typing import Literal

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._pages import each
from penstock.messages.executions import Lane, LaneList
from penstock.messages.lanes import LaneChange
from penstock.messages.statistics import BlockedLimits, LaneStats, LaneStatsGet, LimitsBlocked
from penstock.messages.workers import KindInfo, KindList, WorkerDrain, WorkerInfo, WorkerList


class Lanes:
    """Methods to see, pause, drain and resume lanes. Each raises the typed error that the service replies with."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    def list(self) -> AsyncIterator[Lane]:
        """Iterate over all lanes in alphabetical order, each with its depth per state."""
        return each(self._requester, verbs.LANE_LIST, lambda cursor: LaneList(cursor=cursor))

    async def pause(self, lane: str, reason: str = "") -> Lane:
        """Pause a lane: hand out none of its work."""
        return await self._requester.call(verbs.LANE_PAUSE, LaneChange(lane=lane, reason=reason))

    async def drain(self, lane: str, reason: str = "") -> Lane:
        """Drain a lane: hand out the work it has, and refuse new work."""
        return await self._requester.call(verbs.LANE_DRAIN, LaneChange(lane=lane, reason=reason))

    async def resume(self, lane: str, reason: str = "") -> Lane:
        """Resume a lane: accept new work and hand work out."""
        return await self._requester.call(verbs.LANE_RESUME, LaneChange(lane=lane, reason=reason))

    async def stats(self, lane: str | None = None, *, minutes: int = 60) -> LaneStats:
        """Return what happened in a lane (None: in all) in each of the last `minutes`, up to 1440."""
        return await self._requester.call(verbs.LANE_STATS, LaneStatsGet(lane=lane, minutes=minutes))

    async def blocked(self, lane: str | None = None, *, limit: int = 50) -> BlockedLimits:
        """Return the limits without room that hold back ready work of a lane (None: of all), at most `limit` (200)."""
        return await self._requester.call(verbs.LIMITS_BLOCKED, LimitsBlocked(lane=lane, limit=limit))


class Workers:
    """Methods to list and drain registered workers. Each raises the typed error that the service replies with."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    def list(
        self, *, lane: str | None = None, status: Literal["active", "draining", "lost"] | None = None
    ) -> AsyncIterator[WorkerInfo]:
        """Iterate over the workers that match all filters, in the order of their names."""
        return each(
            self._requester,
            verbs.WORKER_LIST,
            lambda cursor: WorkerList(lane=lane, status=status, cursor=cursor),
        )

    async def drain(self, worker_id: str) -> WorkerInfo:
        """Make a worker finish the tasks it has and ask for no more."""
        return await self._requester.call(verbs.WORKER_DRAIN, WorkerDrain(worker_id=worker_id))

    def kinds(self) -> AsyncIterator[KindInfo]:
        """Iterate over the kinds that workers have told of, sorted by name, with the JSON Schemas of their inputs."""
        return each(self._requester, verbs.KIND_LIST, lambda cursor: KindList(cursor=cursor))
