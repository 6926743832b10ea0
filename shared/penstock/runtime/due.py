"""Due work without polling: sleep until the earliest known time, be woken by hints, sweep rarely.

`DueLoop` calls the service's `due` command, which pops what is due in slices and re-validates it, so
a time that is known wrongly, twice or too early only costs one call. Times are Valkey's clock.
"""

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from penstock.backoff import Backoff
from penstock.clock import ValkeyClock
from penstock.errors import PenstockError
from penstock.machine.ops.common import Due, DueDone
from penstock.runtime.logging import Log
from penstock.throttle import Throttle

LIMIT: Final = 50
"""Items of one slice: few enough that Valkey is never held for more than 2 ms."""
GAP_S: Final = 0.002
"""Seconds between two slices of a partition that were not announced as `more`: they gather meanwhile."""
EARLY_S: Final = 0.0005
"""Timers have a resolution of a millisecond: one that fires this early is on time."""


class DueMachine(Protocol):
    """What the loop needs of `penstock.machine.Machine`."""

    async def run(self, op: Due, at: int) -> DueDone: ...


class _Partition:
    __slots__ = ("backoff", "failing", "next_at", "not_before", "task")

    def __init__(self) -> None:
        self.next_at: float = 0  # of Valkey's clock; 0: we know nothing yet, so look
        self.not_before: float = 0  # of the local clock: gap or backoff
        self.failing = False
        self.backoff = Backoff(0.1, 5.0)
        self.task: asyncio.Task[None] | None = None


class DueLoop:
    """Handles a service's due work in the partitions that this instance owns.

    `on_result(partition, done)`, where set, gets every reply of the `due` operation, for the work that a
    service has to do outside Valkey; it may be a coroutine function.
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
        self.lag_ms = 0.0
        self._machine = machine
        self._log = log
        self._sweep = sweep_ms / 1000
        self._limit = limit
        everything = frozenset(range(partitions))
        self._owned = owned or (lambda: everything)
        self._partitions = [_Partition() for _ in range(partitions)]
        self._timer: asyncio.Handle | None = None
        self._armed_for = math.inf  # time.monotonic(); kept here, for not every loop's timers tell it
        self._sweep_at = 0.0
        self._running = False
        self._complaints = Throttle()

    def start(self) -> None:
        """Looks at every owned partition at once, then whenever something is due."""
        self._running = True
        self._sweep_at = time.monotonic() + self._sweep
        self.rebalance()

    async def stop(self) -> None:
        """Starts no further slice and waits for those under way."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        tasks = [partition.task for partition in self._partitions if partition.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self, partition: int, at_ms: float) -> None:
        """Something in this partition is due at this time (Valkey's); 0 means look now.

        Level-triggered: a wake-up that comes while a slice runs is kept for after it.
        """
        if 0 <= partition < len(self._partitions):
            state = self._partitions[partition]
            if at_ms < state.next_at:
                state.next_at = at_ms
                if state.task is None:
                    self._arm(max(self.clock.local(at_ms + 1), state.not_before))

    def rebalance(self) -> None:
        """Look at all partitions now: other ones are owned, Valkey or NATS was away, or time was moved."""
        for partition in self._partitions:
            partition.next_at = partition.not_before = 0
        if self._running:
            self._arm(0)

    def _arm(self, when: float) -> None:
        if not self._running or self._armed_for <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        loop = asyncio.get_running_loop()
        # The loop's own clock may not be time.monotonic(), so only the difference is handed over.
        self._timer = loop.call_at(loop.time() + max(0.0, when - time.monotonic()), self._fire)

    def _fire(self) -> None:
        """Starts a slice in every owned partition that has something due; sleeps until the next one."""
        self._timer, self._armed_for = None, math.inf
        now = time.monotonic() + EARLY_S
        sweep = now >= self._sweep_at
        if sweep:
            self._sweep_at = now + self._sweep
        owned = self._owned()
        earliest = self._sweep_at
        for number, state in enumerate(self._partitions):
            if state.task is not None:
                continue  # arms the timer itself when it ends
            if number not in owned:
                state.next_at = math.inf  # its owner knows; a new owner starts with rebalance()
                continue
            when = max(self.clock.local(state.next_at + 1) if state.next_at else 0.0, state.not_before)
            if when <= now or (sweep and state.not_before <= now):
                state.task = asyncio.get_running_loop().create_task(self._slices(number, state))
            else:
                earliest = min(earliest, when)
        self._arm(earliest)

    async def _slices(self, number: int, state: _Partition) -> None:
        try:
            while self._running and await self._slice(number, state):
                pass  # each slice is a round trip, so requests get through in between
            state.not_before = time.monotonic() + GAP_S
        except Exception as error:
            self._failed(number, state, error)
        finally:
            state.task = None
            self._arm(max(self.clock.local(state.next_at + 1) if state.next_at else 0.0, state.not_before))

    async def _slice(self, number: int, state: _Partition) -> bool:
        """One `due` command; True when more is due already."""
        planned, state.next_at = state.next_at, math.inf  # wake-ups from here on count anew
        sent = time.monotonic()
        try:
            reply = await self._machine.run(Due(limit=self._limit), at=number)
        except BaseException:
            state.next_at = min(state.next_at, planned)
            raise
        self.clock.learn(reply.now, sent, time.monotonic())
        handled = reply.handled
        self.slices += 1
        self.handled += handled
        if handled and planned and planned < math.inf:
            self.lag_ms = max(0.0, reply.now - planned)
        if state.failing:
            state.failing = False
            state.backoff.reset()
            self._log.info("due work goes on", partition=number)
        state.next_at = min(state.next_at, reply.next_at or math.inf)
        if reply.errors:
            self._failed_handlers(number, reply.errors)
        await self._tell(number, reply)
        if reply.more and not handled:
            state.next_at = 0  # it only cleaned up: go on, but after the gap, lest this spins
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
        """Records whose handlers failed: each is put off by the state machine and comes again."""
        self.errors += len(failed)
        if self._complaints.passes():
            self._log.error(
                "due work failed and is put off", partition=number, failed=len(failed), first=failed[0]
            )

    def _failed(self, number: int, state: _Partition, error: Exception) -> None:
        """Keeps what is due, waits with backoff, and says so once in a while."""
        self.errors += 1
        state.failing = True
        state.not_before = time.monotonic() + state.backoff.next_s()
        if self._complaints.passes():
            expected = isinstance(error, PenstockError) and error.retryable
            self._log.warning(
                "due work waits",
                partition=number,
                error=str(error) if expected else repr(error),
                exc_info=None if expected else error,
            )
