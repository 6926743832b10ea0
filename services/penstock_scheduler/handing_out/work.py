"""work.next: find work for workers, and workers for work.

A parked `work.next` waits in line with others of its *profile* (same lanes, capabilities and kinds). When a lane gets
ready work, the first calls of each profile that takes it ask Valkey for tasks together. The answer "nothing more" marks
the lane as exhausted for that profile until the next hint about work that it takes (news.py). Hints can be lost, so a
sweep clears these marks.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final

from penstock.bus.calls import Call
from penstock.errors import PenstockError, make
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.messages.executions import MAX_TASKS, ExecutionSpec, WorkNext
from penstock_scheduler.handing_out.admission import Admission
from penstock_scheduler.handing_out.handover import Handover
from penstock_scheduler.handing_out.news import ANY, News
from penstock_scheduler.handing_out.orders import Given, HandOut
from penstock_scheduler.handing_out.parked import Ask, Parked, Profile, profile_of

log: Final = logging.getLogger(__name__)

GRACE_S: Final = 0.1
"""How long a call whose `wait_ms` has passed stays in line while some partition may still have work for it."""
ROUNDS: Final = 64
"""The most rounds for a call whose time is over: work found first may have no room in its limit, or be gone, and in a
wide lane one round may come upon nothing but queues that have run empty."""
FIRST_WIDTH: Final = 8
MAX_WIDTH: Final = 64
"""Workers of one profile that ask in one round: FIRST_WIDTH at first, doubled while there is work."""


class Work:
    """The calls that wait for work, and the lanes that may have some."""

    def __init__(self, machine: Machine, admission: Admission, handover: Handover) -> None:
        self._machine = machine
        self._hand_out = HandOut(machine)
        self._admission = admission
        self._handover = handover
        self._lines: dict[Profile, deque[Parked]] = {}
        self._news = News()
        self._running: asyncio.Task[None] | None = None
        self._stopping = False

    async def next(self, call: Call[WorkNext]) -> Sequence[Any] | None:
        request = call.items[0]
        loop = asyncio.get_running_loop()
        if self._stopping:
            return [{"tasks": []}]
        parked = Parked(request, profile_of(request), call.reply_to, loop.create_future())
        line = self._lines.setdefault(parked.profile, deque())
        if parked.unasked:
            line.appendleft(parked)
        else:
            line.append(parked)
        self._wake()
        timer = loop.call_later(request.wait_ms / 1000, self._give_up, parked)
        try:
            return await parked.answer
        finally:
            timer.cancel()

    # -- wake-ups ---------------------------------------------------------------------------------

    def ready(self, partition: int, lanes: Mapping[str, Any]) -> None:
        """Handle the `ready` hint: these lanes got work of these kinds (`lane|kind`, `lane|*`) in this partition."""
        for each in lanes:
            lane, _, kind = each.partition("|")
            self._news.announce((partition, lane), kind or ANY)
        self._wake()

    def expect(self, works: Iterable[tuple[int, str, str]]) -> None:
        """Let parked calls ask for work that is about to be created: right behind it, in the same batch to Valkey.

        works: partition, lane and kind of each; not looked at if no call is parked.
        """
        wanted = {lane for profile, line in self._lines.items() if line for lane in profile.lanes}
        if not wanted:
            return
        coming = {each for each in works if each[1] in wanted}
        for partition, lane, kind in coming:
            self._news.announce((partition, lane), kind)
        if coming:
            self._wake()

    async def sweep(self, every_s: float) -> None:
        """Look for work again every `every_s` seconds, in case a hint was lost."""
        while True:
            await asyncio.sleep(every_s)
            self.forget()

    def forget(self) -> None:
        """Assume that every lane may have work, even where a question under way will be answered "nothing more"."""
        self._news.forget()
        self._wake()

    async def drain(self) -> None:
        """Take no more calls and release the parked ones: their workers ask another scheduler."""
        self._stopping = True
        self.release()

    def release(self) -> None:
        """Answer all calls in line with no tasks: their workers ask again, and reach another scheduler."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            for parked in line:
                parked.settle([{"tasks": []}])

    # -- calls out of line ------------------------------------------------------------------------

    def take_out(self, spec: ExecutionSpec) -> Parked | None:
        """Take a call out of line that waits for such work, and for which nothing else is there; None if there is none.

        `serve` or `put_back` must follow.
        """
        for profile, line in self._lines.items():
            if line and profile.serves(spec) and not line[0].unasked and not self._anywhere(profile):
                while line:
                    parked = line.popleft()
                    if not parked.answer.done():
                        return parked
        return None

    async def serve(self, tasks: Mapping[Parked, Sequence[ops.Task]]) -> None:
        """Send the tasks to calls that are out of line; who gets none is put back."""
        self.put_back([parked for parked, of in tasks.items() if not await self._handed_over(parked, of)])

    def put_back(self, calls: Iterable[Parked]) -> None:
        """Put calls back in line, in their order, before others; end those whose time is over."""
        for parked in reversed(list(calls)):
            if self._stopping or (parked.late and not self._may_find(parked)):
                parked.settle([{"tasks": []}])
            else:
                self._lines.setdefault(parked.profile, deque()).appendleft(parked)
                self._wake()

    def _give_up(self, parked: Parked) -> None:
        """End a call whose time is over, perhaps after GRACE_S. A call that is out of line gets its answer there."""
        first, parked.late = not parked.late, True
        line = self._lines.get(parked.profile)
        if line and parked in line:
            if first and self._may_find(parked):
                asyncio.get_running_loop().call_later(GRACE_S, self._give_up, parked)
                return
            line.remove(parked)
            parked.settle([{"tasks": []}])

    def _may_find(self, parked: Parked) -> bool:
        """Whether a partition may still have work for the call: even a call that does not wait gets what is there."""
        return parked.unasked or (parked.asked < ROUNDS and self._anywhere(parked.profile))

    def _wake(self) -> None:
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._match())

    # -- matching ---------------------------------------------------------------------------------

    async def _match(self) -> None:
        """Ask on behalf of parked calls, round by round, until every line is empty or its lanes are exhausted."""
        try:
            width = FIRST_WIDTH
            while asks := self._round(width):
                try:
                    if await self._play(asks):
                        width = min(width * 2, MAX_WIDTH)
                except Exception:
                    log.exception("handing out failed; who was asked for is told so")
                    for parked in [each for ask in asks for each in ask.takers]:
                        parked.settle([make("internal")])
        finally:
            self._running = None

    def _round(self, width: int) -> list[Ask]:
        """Take up to `width` calls of each profile out of line, with the partitions that may have work for them."""
        asks: list[Ask] = []
        for profile, line in list(self._lines.items()):
            if not line:
                del self._lines[profile]
                continue
            partitions = list(range(self._machine.partitions))
            search = profile
            if not line[0].unasked:
                partitions = [p for p in partitions if self._may_have_work(p, profile)]
                search = profile._replace(lanes=self._lanes_of(partitions, profile))
            if not partitions:
                continue
            takers: list[Parked] = []
            wanted = 0
            while line and len(takers) < width and wanted < MAX_TASKS:
                parked = line.popleft()
                if not parked.answer.done():
                    wanted += parked.request.max
                    parked.asked += 1
                    takers.append(parked)
            if takers:
                asks.append(Ask(profile, search, partitions, takers))
        return asks

    def _anywhere(self, profile: Profile) -> bool:
        """Whether any partition may have work for a profile."""
        return any(self._may_have_work(p, profile) for p in range(self._machine.partitions))

    def _may_have_work(self, partition: int, profile: Profile) -> bool:
        return any(self._news.may_have_work((partition, lane), profile) for lane in profile.lanes)

    def _lanes_of(self, partitions: Sequence[int], profile: Profile) -> tuple[str, ...]:
        """Return the profile's lanes that may have work in one of these partitions."""
        may = self._news.may_have_work
        return tuple(lane for lane in profile.lanes if any(may((p, lane), profile) for p in partitions))

    async def _play(self, asks: list[Ask]) -> bool:
        """Run one round: hand out, reply, put the rest back in line. Return whether any worker got a task."""
        # Look at the news before asking: a lane with work that is announced meanwhile must not count as exhausted.
        asked = self._news.now()
        answers = await self._hand_out(asks)
        back: list[Parked] = []
        delivered = False
        deliveries: list[Coroutine[Any, Any, bool]] = []
        takers: list[Parked] = []
        for ask, answer in zip(asks, answers, strict=True):
            for place in answer.exhausted:
                self._news.exhaust(place, ask.profile, asked)
            for parked, given in zip(ask.takers, answer.given, strict=True):
                if answer.error is not None and not given.tasks and not given.grants:
                    parked.settle([answer.error])
                elif not given.grants:
                    # At once: a worker is waiting, and with a task of its own the answer would leave a tick later.
                    if await self._handed_over(parked, given.tasks):
                        delivered = True
                    else:
                        back.append(parked)
                else:
                    deliveries.append(self._deliver(parked, given))
                    takers.append(parked)
        # Limits in other partitions cost a question each, so deliver to all workers at the same time.
        outcomes = await asyncio.gather(*deliveries, return_exceptions=True)
        for parked, outcome in zip(takers, outcomes, strict=True):
            if isinstance(outcome, PenstockError):  # another partition is away: the grants expire
                parked.settle([outcome])
            elif isinstance(outcome, BaseException):
                log.error("delivering tasks failed", exc_info=outcome)
                parked.settle([make("internal")])
            elif outcome:
                delivered = True
            else:
                back.append(parked)
        self.put_back(back)
        return delivered

    async def _deliver(self, parked: Parked, given: Given) -> bool:
        """Claim what other partitions admit, and send the worker all its tasks. Return False if there are none."""
        tasks = given.tasks
        for partition, grants in given.grants.items():
            admitted = await self._admission.admit(partition, grants)
            tasks = tasks + await self._claim(parked.request, admitted)
        return await self._handed_over(parked, tasks)

    async def _handed_over(self, parked: Parked, tasks: Sequence[ops.Task]) -> bool:
        """Send the worker the tasks leased to it. Return False if there are none."""
        if not tasks or not await self._handover.answer(parked.reply_to, tasks):
            return False
        parked.settle(None)
        return True

    async def _claim(self, request: WorkNext, grants: list[ops.Granted]) -> list[ops.Task]:
        """Claim grants that other partitions had to admit first. Return the leased tasks."""
        replies = await self._machine.run_many(
            [
                ops.Claim(
                    execution_id=grant.execution_id,
                    grant_id=grant.grant_id,
                    worker_id=request.worker_id,
                    lease_ttl_ms=request.lease_ttl_ms,
                    start=request.start,
                    verb="any",
                )
                for grant in grants
            ]
        )
        # A claim is refused if its execution was canceled or its grant expired in between: skip it.
        return [reply for reply in replies if not isinstance(reply, PenstockError)]
