"""Due work without polling: sleep until the earliest known due time, wake up on hints, sweep rarely.

`DueLoop` calls the service's `due` command, which pops due items in slices and validates each again, so a due
time that is wrong, duplicate or too early costs only one call. Due times are in ms of Valkey's clock.
"""

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from penstock.backoff import Backoff
from penstock.clock import ValkeyClock
from penstock.errors import PenstockError
from penstock.machine.ops.common import Due, DueDone, NextDue, NextDueAt
from penstock.metrics import Histogram
from penstock.runtime.logging import Log
from penstock.throttle import Throttle

LIMIT: Final = 50
"""The most items in one slice: few enough that a slice never blocks Valkey for more than 2 ms."""
GAP_S: Final = 0.002
"""Pause in seconds before a partition's next slice, unless the reply said `more`: due items gather meanwhile."""
EARLY_S: Final = 0.0005
"""Timers have a resolution of one millisecond: a timer that fires this many seconds early is on time."""


class DueMachine(Protocol):
    """The part of `penstock.machine.Machine` that the due loop uses."""

    async def run(self, op: Due, at: int) -> DueDone: ...

    async def look(
        self, ops: Sequence[NextDue], at: Sequence[int]
    ) -> Sequence[NextDueAt | PenstockError]: ...


class _Partition:
    __slots__ = ("backoff", "failing_since", "next_at", "not_before", "planned", "task")

    def __init__(self) -> None:
        self.next_at: float = 0  # ms of Valkey's clock; 0: unknown, so run a slice now
        self.planned: float = math.inf  # the due time for which the running slice was started
        self.not_before: float = 0  # time.monotonic(): end of the gap or backoff
        self.failing_since: float | None = None  # time.monotonic()
        self.backoff = Backoff(0.1, 5.0)
        self.task: asyncio.Task[None] | None = None


class DueLoop:
    """The loop that handles a service's due work in the partitions that this instance owns.

    `on_result(partition, done)`, if set, is called with every reply of the `due` operation, for work that the
    service must do outside Valkey. It may be a coroutine function.
    """

    def __init__(
        self,
        machine: DueMachine,
        partitions: int,
        log: Log,
        *,
        sweep_ms: int = 5000,
        limit: int = LIMIT,
        owned: Callable[[], frozenset[int]] | None = None,
        clock: ValkeyClock | None = None,
    ) -> None:
        self.on_result: Callable[[int, DueDone], Awaitable[None] | None] | None = None
        self.clock = clock or ValkeyClock()
        self.handled = 0
        self.slices = 0
        self.errors = 0
        self.delays = Histogram()
        """How late slices found what was due, in seconds."""
        self._machine = machine
        self._log = log
        self._sweep = sweep_ms / 1000
        self._limit = limit
        everything = frozenset(range(partitions))
        self._owned = owned or (lambda: everything)
        self._partitions = [_Partition() for _ in range(partitions)]
        self._timer: asyncio.Handle | None = None
        self._armed_for = math.inf  # time.monotonic(); not every loop's timer handle has its time
        self._sweep_at = 0.0
        self._sweeping: asyncio.Task[None] | None = None
        self._running = False
        self._complaints = Throttle()

    def start(self) -> None:
        """Run a slice in every owned partition now, and from then on whenever something is due."""
        self._running = True
        self._sweep_at = time.monotonic() + self._sweep
        self.rebalance()

    async def stop(self) -> None:
        """Start no further slices, and wait for the running ones."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        running = [self._sweeping, *(partition.task for partition in self._partitions)]
        tasks = [task for task in running if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self, partition: int, at_ms: float) -> None:
        """Note that an item of this partition is due at `at_ms` of Valkey's clock; 0 means now.

        A wake-up that comes while a slice runs is not lost: it takes effect after the slice.
        """
        if 0 <= partition < len(self._partitions):
            state = self._partitions[partition]
            if at_ms < state.next_at:
                state.next_at = at_ms
                if state.task is None:
                    self._arm(max(self.clock.local(at_ms + 1), state.not_before))

    def rebalance(self) -> None:
        """Run a slice in all owned partitions now: owners changed, Valkey or NATS was away, or the clock was moved."""
        for partition in self._partitions:
            partition.next_at = partition.not_before = 0
        if self._running:
            self._arm(0)

    def lag_s(self) -> float:
        """Return how late the earliest due item is now, in seconds; while Valkey fails, at least since when it does."""
        now, clock = time.monotonic(), self.clock.now()
        owned = self._owned()
        lag = 0.0
        for number, state in enumerate(self._partitions):
            if number in owned:
                due_at = min((at for at in (state.next_at, state.planned) if at), default=math.inf)
                lag = max(lag, (clock - due_at) / 1000)
                if state.failing_since is not None:
                    lag = max(lag, now - state.failing_since)
        return lag

    def _arm(self, when: float) -> None:
        if not self._running or self._armed_for <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        loop = asyncio.get_running_loop()
        # The event loop's clock may differ from time.monotonic(), so only the time left is passed on.
        self._timer = loop.call_at(loop.time() + max(0.0, when - time.monotonic()), self._fire)

    def _fire(self) -> None:
        """Start a slice in each owned partition with due items, and the sweep if it is time. Arm the timer again."""
        self._timer, self._armed_for = None, math.inf
        now = time.monotonic() + EARLY_S
        if now >= self._sweep_at:
            self._sweep_at = now + self._sweep
            if self._sweeping is None:
                self._sweeping = asyncio.get_running_loop().create_task(self._look())
        owned = self._owned()
        earliest = self._sweep_at
        for number, state in enumerate(self._partitions):
            if state.task is not None:
                continue  # the running task arms the timer when it ends
            if number not in owned:
                state.next_at = math.inf  # the owner tracks its due times; a new owner calls rebalance()
                continue
            when = max(self.clock.local(state.next_at + 1) if state.next_at else 0.0, state.not_before)
            if when <= now:
                state.task = asyncio.get_running_loop().create_task(self._slices(number, state))
            else:
                earliest = min(earliest, when)
        self._arm(earliest)

    async def _look(self) -> None:
        """Ask all owned partitions at once what is due there next, in case a hint was lost."""
        try:
            owned = sorted(self._owned())
            sent = time.monotonic()
            replies = await self._machine.look([NextDue()] * len(owned), owned)
            received = time.monotonic()
            for number, reply in zip(owned, replies, strict=True):
                if isinstance(reply, PenstockError):
                    self.wake(number, 0)  # the slice will fail, and be repeated until it does not
                    continue
                self.clock.learn(reply.now, sent, received)
                if reply.next_at is not None:
                    self.wake(number, reply.next_at)
        except Exception:
            self._log.exception("the look for due work failed")
        finally:
            self._sweeping = None

    async def _slices(self, number: int, state: _Partition) -> None:
        try:
            while self._running and await self._slice(number, state):
                pass  # each slice is a round trip to Valkey, so requests run in between
            state.not_before = time.monotonic() + GAP_S
        except Exception as error:
            self._failed(number, state, error)
        finally:
            state.task = None
            self._arm(max(self.clock.local(state.next_at + 1) if state.next_at else 0.0, state.not_before))

    async def _slice(self, number: int, state: _Partition) -> bool:
        """Run one `due` command. Return whether more items are due already and the next slice may start at once."""
        planned = state.planned = state.next_at
        state.next_at = math.inf  # wake-ups during the call set it again
        sent = time.monotonic()
        try:
            reply = await self._machine.run(Due(limit=self._limit), at=number)
        except BaseException:
            state.next_at = min(state.next_at, planned)
            raise
        finally:
            state.planned = math.inf
        self.clock.learn(reply.now, sent, time.monotonic())
        handled = reply.handled
        self.slices += 1
        self.handled += handled
        if handled and planned and planned < math.inf:
            self.delays.observe(max(0.0, reply.now - planned) / 1000)
        if state.failing_since is not None:
            state.failing_since = None
            state.backoff.reset()
            self._log.info("due work goes on", partition=number)
        state.next_at = min(state.next_at, reply.next_at or math.inf)
        if reply.errors:
            self._failed_handlers(number, reply.errors)
        await self._tell(number, reply)
        if reply.more and not handled:
            state.next_at = 0  # the slice only cleaned up: go on after the gap, not in a busy loop
        return reply.more and handled > 0

    async def _tell(self, number: int, reply: DueDone) -> None:
        if self.on_result is None:
            return
        try:
            told = self.on_result(number, reply)
            if inspect.isawaitable(told):
                await told
        except Exception:
            self._log.exception("handling a due result failed", partition=number)

    def _failed_handlers(self, number: int, failed: list[str]) -> None:
        """Count and log items whose handlers failed. The state machine has postponed them; they become due again."""
        self.errors += len(failed)
        if self._complaints.passes():
            self._log.error(
                "due work failed and is put off", partition=number, failed=len(failed), first=failed[0]
            )

    def _failed(self, number: int, state: _Partition, error: Exception) -> None:
        """Delay the partition's next slice with backoff after a failed call, and log that at a limited rate."""
        self.errors += 1
        if state.failing_since is None:
            state.failing_since = time.monotonic()
        state.not_before = time.monotonic() + state.backoff.next_s()
        if self._complaints.passes():
            expected = isinstance(error, PenstockError) and error.retryable
            self._log.warning(
                "due work waits",
                partition=number,
                error=str(error) if expected else repr(error),
                exc_info=None if expected else error,
            )
