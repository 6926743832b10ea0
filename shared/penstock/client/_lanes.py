"""`client.lanes` and `client.workers`: where work waits, and who does it."""

from collections.abc import AsyncIterator
from typing import Literal

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._pages import each
from penstock.messages.executions import Lane, LaneList
from penstock.messages.lanes import LaneChange
from penstock.messages.workers import WorkerDrain, WorkerInfo, WorkerList


class Lanes:
    """Looks at lanes and steers them. Each call raises the typed error that the service answers."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    def list(self) -> AsyncIterator[Lane]:
        """Every lane, with its depth per state, in alphabetical order."""
        return each(self._requester, verbs.LANE_LIST, lambda cursor: LaneList(cursor=cursor))

    async def pause(self, lane: str, reason: str = "") -> Lane:
        """Nothing of the lane is handed out."""
        return await self._requester.call(verbs.LANE_PAUSE, LaneChange(lane=lane, reason=reason))

    async def drain(self, lane: str, reason: str = "") -> Lane:
        """What the lane has is handed out, and new work for it is refused."""
        return await self._requester.call(verbs.LANE_DRAIN, LaneChange(lane=lane, reason=reason))

    async def resume(self, lane: str, reason: str = "") -> Lane:
        """The lane takes work and hands it out."""
        return await self._requester.call(verbs.LANE_RESUME, LaneChange(lane=lane, reason=reason))


class Workers:
    """Looks at the registered workers. Each call raises the typed error that the service answers."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    def list(
        self, *, lane: str | None = None, status: Literal["active", "draining", "lost"] | None = None
    ) -> AsyncIterator[WorkerInfo]:
        """Workers for which all filters hold, in the order of their names."""
        return each(
            self._requester,
            verbs.WORKER_LIST,
            lambda cursor: WorkerList(lane=lane, status=status, cursor=cursor),
        )

    async def drain(self, worker_id: str) -> WorkerInfo:
        """Let a worker finish what it has and ask for no more."""
        return await self._requester.call(verbs.WORKER_DRAIN, WorkerDrain(worker_id=worker_id))
