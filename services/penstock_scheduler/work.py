"""work.next and work.grant: finds work for workers, and workers for work.

A parked `work.next` waits in line with others of its *profile* (same lanes, same capabilities). When a lane
gets ready work, the first of each profile that serves it asks Valkey for tasks; what answers "nothing more"
makes the lane *dry* for that profile until the next hint. Hints can be lost, so a sweep forgets what is dry.
"""

import asyncio
from collections import deque
from collections.abc import Sequence, Set
from typing import Any, Final, NamedTuple

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError, make
from penstock.messages.executions import WorkGrant, WorkNext
from penstock.store import Store
from penstock_scheduler.handover import Handover
from penstock_scheduler.limits import Admission

GRACE_S: Final = 0.1
"""How long one whose time is over, but who has not been asked for everywhere, stays in line."""
MAX_ASKS: Final = 64
"""Workers that ask in one round; rounds begin with one and double while there is work."""
MAX_TASKS: Final = 128
"""Tasks of one round, and of one answer: so that no call holds Valkey for long."""


Places = Set[tuple[int, str]]
"""Lanes of partitions."""


class Profile(NamedTuple):
    """What a worker can do: equal profiles find the same work."""

    lanes: tuple[str, ...]
    capabilities: tuple[str, ...]


class Parked(msgspec.Struct, eq=False):
    """One `work.next` in line; the future's None means that it was answered with tasks."""

    request: WorkNext
    reply_to: str
    answer: "asyncio.Future[Sequence[Any] | None]"
    late: bool = False
    asked: int = 0


class Work:
    """Who waits for work, and which lanes may have some."""

    def __init__(self, store: Store, admission: Admission, handover: Handover) -> None:
        self._store = store
        self._admission = admission
        self._handover = handover
        self._lines: dict[Profile, deque[Parked]] = {}
        self._news: dict[tuple[int, str], int] = {}
        self._dry: dict[tuple[int, str, Profile], int] = {}
        self._running: asyncio.Task[None] | None = None
        self._turn = 0
        self._stopping = False

    # -- verbs ------------------------------------------------------------------------------------

    async def next(self, call: Call[WorkNext]) -> Sequence[Any] | None:
        request = call.items[0]
        loop = asyncio.get_running_loop()
        parked = Parked(request, call.reply_to, loop.create_future())
        if self._stopping:
            return [{"tasks": []}]
        profile = _profile(request)
        line = self._lines.setdefault(profile, deque())
        line.append(parked)
        self._wake()
        timer = loop.call_later(request.wait_ms / 1000, self._give_up, profile, parked)
        try:
            return await parked.answer
        finally:
            timer.cancel()

    async def grant(self, call: Call[WorkGrant]) -> Sequence[Any]:
        item = call.items[0]
        profile = _profile(item)
        items: list[dict[str, Any]] = []
        partitions = deque(range(self._store.partitions))
        while partitions and len(items) < item.max:
            partition = partitions[0]
            question = _question(profile, item.worker_id, item.max - len(items))
            reply = await self._store.call(partition, "grant", question)
            grants = await self._admission.admit(partition, reply["grants"])
            if len(grants) == len(reply["grants"]) and "more" not in reply:
                partitions.popleft()
            # Otherwise what had no room stands aside by now: behind it there may be work that another limit is for.
            items += [
                {
                    "grant_id": grant_id,
                    "execution_id": execution_id,
                    "resumed": resumed,
                    "reclaim": reclaim,
                    "expires_at": expires_at,
                }
                for grant_id, execution_id, resumed, reclaim, expires_at, *_ in grants
            ]
        if not items:
            raise await self._nothing(profile)
        return [{"items": items, "cursor": None}]

    async def _nothing(self, profile: Profile) -> PenstockError:
        """Why there is no grant: the limit that is the first to be looked at again, or there is no work."""
        question = {"lanes": profile.lanes, "capabilities": profile.capabilities}
        replies = await self._store.call_many([(p, "held", question) for p in range(self._store.partitions)])
        held = [each for each in replies if not isinstance(each, PenstockError) and each]
        first = min(held, key=lambda each: each["wait_ms"], default={})
        code = first.get("code", "no_eligible_execution")
        return make(code, detail={"lanes": profile.lanes}, retry_after_ms=first.get("wait_ms"))

    # -- wake-ups ---------------------------------------------------------------------------------

    def ready(self, partition: int, lanes: Any) -> None:
        """The `ready` hint: these lanes got work in this partition."""
        for lane in lanes:
            key = (partition, lane)
            self._news[key] = self._news.get(key, 0) + 1
        self._wake()

    def expect(self, places: Places) -> None:
        """Work is on its way into Valkey: who waits for it asks right behind, in the same call."""
        wanted = {lane for profile, line in self._lines.items() if line for lane in profile.lanes}
        for partition, lane in places:
            if lane in wanted:
                self.ready(partition, [lane])

    def withdraw(self, worker_id: Any) -> None:
        """A worker that stops no longer wants what it asked for; it is answered at once."""
        for line in self._lines.values():
            for parked in [each for each in line if each.request.worker_id == worker_id]:
                line.remove(parked)
                _settle(parked, [{"tasks": []}])

    async def sweep(self, every_s: float) -> None:
        """Looks again once in a while, in case a hint was lost."""
        while True:
            await asyncio.sleep(every_s)
            self._dry.clear()
            self._news.clear()
            self._wake()

    async def drain(self) -> None:
        """Lets the parked workers go: they ask another scheduler."""
        self._stopping = True
        lines, self._lines = self._lines, {}
        for line in lines.values():
            for parked in line:
                _settle(parked, [{"tasks": []}])

    def _give_up(self, profile: Profile, parked: Parked) -> None:
        """Nothing came in time. One that is being asked for is not in line: its answer decides."""
        first, parked.late = not parked.late, True
        line = self._lines.get(profile)
        if line and parked in line:
            if first and self._may_find(profile, parked):
                asyncio.get_running_loop().call_later(GRACE_S, self._give_up, profile, parked)
                return
            line.remove(parked)
            _settle(parked, [{"tasks": []}])

    def _may_find(self, profile: Profile, parked: Parked) -> bool:
        """Whether there is a partition left to ask in: even who does not wait gets what is there."""
        partitions = range(self._store.partitions)
        return parked.asked < len(partitions) and any(self._wet(p, profile) for p in partitions)

    def _wake(self) -> None:
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._match())

    # -- matching ---------------------------------------------------------------------------------

    async def _match(self) -> None:
        """Asks for the parked, round by round, until every line is empty or dry."""
        try:
            width = 1
            while round_ := self._round(width):
                if await self._play(round_):
                    width = min(width * 2, MAX_ASKS)
        finally:
            self._running = None

    def _round(self, width: int) -> list[tuple[int, Profile, Parked]]:
        """Up to `width` workers of each profile that may find work, each with a partition to ask in."""
        asks: list[tuple[int, Profile, Parked]] = []
        for profile, line in list(self._lines.items()):
            if not line:
                del self._lines[profile]
                continue
            partitions = [p for p in range(self._store.partitions) if self._wet(p, profile)]
            if not partitions:
                continue
            turn = wanted = 0
            self._turn += 1  # partitions take turns, so that none is drained before the others
            while line and turn < width and wanted < MAX_TASKS:
                parked = line.popleft()
                if not parked.answer.done():
                    wanted += parked.request.max
                    parked.asked += 1
                    asks.append((partitions[(self._turn + turn) % len(partitions)], profile, parked))
                    turn += 1
        return asks

    def _wet(self, partition: int, profile: Profile) -> bool:
        return any(
            self._dry.get((partition, lane, profile)) != self._news.get((partition, lane), 0)
            for lane in profile.lanes
        )

    async def _play(self, asks: list[tuple[int, Profile, Parked]]) -> bool:
        """Asks, answers who got something, puts the others back in line. Whether anybody got something."""
        # Taken before the question: news that come while it is under way make the lane wet again.
        news = dict(self._news)
        replies = await self._store.call_many(
            [(partition, "hand_out", _order(profile, parked.request)) for partition, profile, parked in asks]
        )
        delivered = False
        back: list[tuple[Profile, Parked]] = []
        for (partition, profile, parked), reply in zip(asks, replies, strict=True):
            if isinstance(reply, PenstockError):
                _settle(parked, [reply])
                continue
            more = reply.get("more", {})
            for lane in profile.lanes:
                if lane not in more:
                    self._dry[partition, lane, profile] = news.get((partition, lane), 0)
            if await self._deliver(partition, parked, reply):
                delivered = True
            else:
                back.append((profile, parked))
        for profile, parked in reversed(back):
            if self._stopping or (parked.late and not self._may_find(profile, parked)):
                _settle(parked, [{"tasks": []}])
            else:
                self._lines.setdefault(profile, deque()).appendleft(parked)
        return delivered

    async def _deliver(self, partition: int, parked: Parked, reply: dict[str, Any]) -> bool:
        """Answers the worker with what it was leased; False when there is nothing."""
        tasks: list[dict[str, Any]] = reply["tasks"]
        if reply["grants"]:
            grants = await self._admission.admit(partition, reply["grants"])
            tasks += await self._claim(partition, parked.request, grants)
        if not tasks or not await self._handover.answer(parked.reply_to, tasks):
            return False
        _settle(parked, None)
        return True

    async def _claim(
        self, partition: int, request: WorkNext, grants: list[list[Any]]
    ) -> list[dict[str, Any]]:
        """The leases of grants that had to be admitted elsewhere first."""
        claim = {
            "worker_id": request.worker_id,
            "lease_ttl_ms": request.lease_ttl_ms,
            "start": request.start,
            "verb": "any",
        }
        replies = await self._store.call_many(
            [
                (partition, "claim", {**claim, "grant_id": grant_id, "execution_id": execution_id})
                for grant_id, execution_id, *_ in grants
            ]
        )
        # What was refused was cancelled or expired in between; whatever it is, the execution knows best.
        return [reply for reply in replies if not isinstance(reply, PenstockError)]


def _profile(request: WorkNext | WorkGrant) -> Profile:
    return Profile(tuple(request.lanes), tuple(sorted(set(request.capabilities))))


def _question(profile: Profile, worker_id: str, most: int) -> dict[str, Any]:
    return {
        "worker_id": worker_id,
        "lanes": profile.lanes,
        "capabilities": profile.capabilities,
        "max": min(most, MAX_TASKS),
    }


def _order(profile: Profile, request: WorkNext) -> dict[str, Any]:
    return {
        **_question(profile, request.worker_id, request.max),
        "lease_ttl_ms": request.lease_ttl_ms,
        "start": request.start,
    }


def _settle(parked: Parked, answer: Sequence[Any] | None) -> None:
    if not parked.answer.done():
        parked.answer.set_result(answer)
