"""`client.lanes` and `client.workers`: the queues of work, and the workers that serve them."""

from collections.abc import AsyncIterator
from typing import Literal

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._pages import each
from penstock.messages.executions import Lane, LaneList
from penstock.messages.lanes import LaneChange
from penstock.messages.workers import WorkerDrain, WorkerInfo, WorkerList


class Lanes:
    """Methods to list, pause, drain and resume lanes. Each raises the typed error that the service replies with."""

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
