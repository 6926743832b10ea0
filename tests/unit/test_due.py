"""DueLoop: wakes in time, is level-triggered, works in slices, and retries after every failure."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from penstock import errors
from penstock.clock import ValkeyClock
from penstock.machine.ops.common import Due, DueDone, NextDue, NextDueAt
from penstock.runtime.due import DueLoop
from penstock.runtime.logging import logger

LOG = logger("scheduler", "test")


class Agenda:
    """A DueMachine in memory. Its clock is `ahead_ms` ahead of the local clock."""

    def __init__(self, partitions: int = 1, ahead_ms: int = 0) -> None:
        self.items: list[list[int]] = [[] for _ in range(partitions)]
        self.done: list[tuple[int, int, int]] = []
        self.calls: list[int] = []
        self.ahead_ms = ahead_ms
        self.fail = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    def now(self) -> int:
        return int(time.time() * 1000) + self.ahead_ms

    async def look(self, ops: Sequence[NextDue], at: Sequence[int]) -> list[NextDueAt]:
        return [NextDueAt(self.now(), min(self.items[partition], default=None)) for partition in at]

    async def run(self, op: Due, at: int) -> DueDone:
        partition = at
        self.calls.append(partition)
        if self.fail:
            self.fail -= 1
            raise errors.make("valkey_unavailable")
        now = self.now()
        waiting = sorted(self.items[partition])
        due = [each for each in waiting if each <= now][: op.limit]
        self.items[partition] = waiting[len(due) :]
        self.done += [(partition, each, now) for each in due]
        left = self.items[partition]
        self.entered.set()
        await self.gate.wait()
        return DueDone(
            handled=len(due),
            more=bool(left) and left[0] <= now,
            now=now,
            next_at=left[0] if left else None,
        )


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.001)


async def idle(agenda: Agenda, loop: DueLoop) -> None:
    """Wait until the loop has looked at every partition once."""
    await until(lambda: loop.slices >= len(agenda.items))


@pytest.mark.parametrize("ahead_ms", [0, 7_200_000, -7_200_000])
async def test_handles_what_is_due_in_valkeys_time(ahead_ms: int) -> None:
    agenda = Agenda(ahead_ms=ahead_ms)
    agenda.items[0] = [agenda.now() - 5, agenda.now() + 60]
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000)
    loop.start()
    await until(lambda: len(agenda.done) == 2)
    await loop.stop()
    assert all(at <= now <= at + 1000 for _, at, now in agenda.done[1:])
    assert len(agenda.calls) <= 4  # no polling
    assert loop.handled == 2
    assert abs(loop.clock.now() - agenda.now()) < 200


async def test_a_wake_up_is_heard_while_asleep() -> None:
    agenda = Agenda()
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000)
    loop.start()
    await idle(agenda, loop)
    at = agenda.now() + 30
    agenda.items[0].append(at)
    loop.wake(0, at)
    await until(lambda: len(agenda.done) == 1)
    await loop.stop()
    assert len(agenda.calls) <= 3


async def test_a_wake_up_during_a_slice_is_not_lost() -> None:
    agenda = Agenda()
    agenda.gate.clear()
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000)
    loop.start()
    await agenda.entered.wait()
    agenda.items[0].append(agenda.now() - 1)  # the running slice has already looked, so it misses this item
    loop.wake(0, agenda.now() - 1)
    agenda.gate.set()
    await until(lambda: len(agenda.done) == 1)
    await loop.stop()


async def test_goes_on_in_slices_until_no_more() -> None:
    agenda = Agenda()
    agenda.items[0] = [1] * 95
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000, limit=10)
    loop.start()
    await until(lambda: loop.handled == 95)
    await loop.stop()
    assert len(agenda.calls) == 10


async def test_a_lost_hint_is_made_up_for_by_the_sweep() -> None:
    agenda = Agenda(partitions=3)
    loop = DueLoop(agenda, 3, LOG, sweep_ms=100)
    loop.start()
    await idle(agenda, loop)
    agenda.items[2].append(agenda.now())  # without a wake-up
    await until(lambda: agenda.done != [])
    await loop.stop()


async def test_goes_on_after_valkey_was_away() -> None:
    agenda = Agenda()
    agenda.items[0] = [agenda.now() - 1]
    agenda.fail = 2
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000)
    loop.start()
    await until(lambda: loop.handled == 1)
    await loop.stop()
    assert loop.errors == 2


async def test_lag_grows_while_due_work_is_not_done_and_then_ends() -> None:
    agenda = Agenda()
    agenda.items[0] = [agenda.now() - 60_000]
    agenda.gate.clear()
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000)
    loop.start()
    await agenda.entered.wait()
    agenda.gate.set()
    await until(lambda: loop.handled == 1)
    assert loop.lag_s() == 0.0

    agenda.entered.clear()
    agenda.gate.clear()
    late = agenda.now() - 60_000
    agenda.items[0] = [late]
    loop.wake(0, late)
    await agenda.entered.wait()  # the slice runs, and its answer does not come
    assert loop.lag_s() >= 59
    agenda.gate.set()
    await until(lambda: loop.handled == 2)
    assert loop.lag_s() == 0.0
    assert loop.delays.total >= 59 and sum(loop.delays.counts) == 1
    await loop.stop()


async def test_lag_grows_from_the_first_failure_on_even_if_nothing_is_known_to_be_due() -> None:
    agenda = Agenda()
    agenda.fail = 1_000
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000)
    loop.start()
    await until(lambda: loop.errors >= 2)
    assert loop.lag_s() > 0.05
    agenda.fail = 0
    await until(lambda: loop.slices == 1)
    assert loop.lag_s() == 0.0
    await loop.stop()


async def test_only_owned_partitions_are_looked_at_and_new_ones_at_once() -> None:
    agenda = Agenda(partitions=4)
    owned = frozenset({0, 2})
    loop = DueLoop(agenda, 4, LOG, sweep_ms=60_000, owned=lambda: owned)
    loop.start()
    await until(lambda: loop.slices == 2)
    agenda.items[1].append(1)
    loop.wake(1, 1)
    loop.wake(2, 1)
    await until(lambda: loop.slices == 3)
    assert set(agenda.calls) == {0, 2}
    owned = frozenset({1})
    loop.rebalance()
    await until(lambda: len(agenda.done) == 1)
    await loop.stop()
    assert agenda.done[0][0] == 1


async def test_one_stuck_partition_does_not_hold_the_others() -> None:
    agenda = Agenda(partitions=2)
    agenda.gate.clear()
    loop = DueLoop(agenda, 2, LOG, sweep_ms=60_000, owned=lambda: frozenset(range(2)))
    loop.start()
    await until(lambda: set(agenda.calls) == {0, 1})
    agenda.gate.set()
    await loop.stop()


async def test_results_are_told_and_a_failing_listener_does_no_harm() -> None:
    agenda = Agenda()
    told: list[dict[str, Any]] = []

    async def listen(partition: int, reply: dict[str, Any]) -> None:
        told.append(reply)
        raise RuntimeError("listener")

    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000)
    loop.on_result = listen
    loop.start()
    await until(lambda: len(told) == 1)
    agenda.items[0].append(1)
    loop.wake(0, 0)
    await until(lambda: loop.handled == 1 and len(told) == 2)
    await loop.stop()


async def test_stop_waits_for_the_slice_and_starts_no_other() -> None:
    agenda = Agenda()
    agenda.items[0] = [1] * 5
    agenda.gate.clear()
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000, limit=1)
    loop.start()
    await agenda.entered.wait()
    stopping = asyncio.create_task(loop.stop())
    await asyncio.sleep(0)
    agenda.gate.set()
    await stopping
    assert len(agenda.calls) == 1
    loop.wake(0, 0)
    await asyncio.sleep(0)
    assert len(agenda.calls) == 1


def test_the_clock_estimate_moves_only_as_far_as_a_reply_demands() -> None:
    clock = ValkeyClock()
    sent = time.monotonic()
    clock.learn(1_000_000, sent, sent + 0.001)
    before = clock.local(2_000_000)
    clock.learn(1_000_500, sent, sent + 2.0)  # a slow reply proves little
    assert clock.local(2_000_000) == before
    clock.learn(5_000_000, sent, sent + 0.001)  # a jump of Valkey's clock is adopted
    assert abs(clock.local(5_000_000) - sent) < 0.01


async def test_two_wakes_of_one_tick_are_both_kept() -> None:
    agenda = Agenda()
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000)
    loop.start()
    await idle(agenda, loop)
    soon, at_once = agenda.now() + 30_000, agenda.now()
    agenda.items[0] = [at_once]
    loop.wake(0, soon)
    loop.wake(0, at_once)
    loop.rebalance()
    loop.rebalance()
    await until(lambda: [at for _, at, _ in agenda.done] == [at_once])
    await loop.stop()


async def test_a_handler_that_failed_is_counted_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Agenda):
        async def run(self, op: Due, at: int) -> DueDone:
            done = await super().run(op, at)
            if len(self.calls) == 1:
                done.errors = ["x 0-1: no such field"]
            return done

    agenda = Failing()
    loop = DueLoop(agenda, 1, LOG, sweep_ms=60_000)
    loop.start()
    await idle(agenda, loop)
    await until(lambda: loop.errors == 1)
    await loop.stop()
    assert "x 0-1: no such field" in caplog.text
