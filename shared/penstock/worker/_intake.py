"""Asks for work as long as slots are free, and ahead of them while tasks end faster than others can be asked for.

A worker with one request under way gets at most MAX_TASKS in the time that a request takes, and where handlers are
brief it mostly waits. Once all tasks of a full reply had ended when the next one came, BRIEF_S later at most, a second
request is kept under way, and both are for twice as many tasks as there are slots: a reply costs five processes a turn
each, however many tasks it has. The second one does not wait for work. This ends with the first reply that is not full,
or when a task that came ahead finds no free slot soon (`_surplus.py` gives that one back).
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

import msgspec
from nats.aio.client import Client as Nats

from penstock import errors
from penstock.backoff import Backoff
from penstock.messages.executions import MAX_TASKS, WorkNext
from penstock.messages.leases import TaskMessage
from penstock.worker._asker import Asker
from penstock.worker._outages import OutageLog

MAX_ASK: Final = 1000
BRIEF_S: Final = 0.05
AHEAD_FROM: Final = 16
"""Nothing is asked ahead for fewer tasks: a round trip for each few is the price of small workers."""
HELD: Final = 6
"""For each slot so many tasks run, wait for it or are asked for, at most: one reply at work, two on their way."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0


class TaskIntake:
    """Keeps asking for as many tasks as there are free slots, and ahead of them for brief ones."""

    def __init__(
        self,
        nats: Nats,
        root: str,
        ask: WorkNext,
        slots: int,
        room: Callable[[int], int],
        accept: Callable[[list[TaskMessage]], None],
    ) -> None:
        """room: how many more tasks fit here if there are so many slots."""
        self._wait_ms = ask.wait_ms
        self._slots = slots
        self._room = room
        self._accept = accept
        self._parked = Asker(nats, root, ask, self._on_tasks)
        self._ahead = Asker(nats, root, msgspec.structs.replace(ask, wait_ms=0), self._on_tasks)
        self._free = asyncio.Event()
        self._brief = asyncio.Event()
        self._full_at = -math.inf
        """When the last reply came, if it was full."""
        self._stopping = False
        self._outages = OutageLog()

    def slot_freed(self) -> None:
        """Note that a task has ended, so that `run` asks again."""
        self._free.set()

    def not_brief(self) -> None:
        """Note that a task which came ahead waits for a slot: ask no more ahead until tasks are seen to be brief."""
        self._brief.clear()
        self._full_at = -math.inf

    async def start(self) -> None:
        """Subscribe to the inboxes on which tasks arrive."""
        await self._parked.start()
        await self._ahead.start()

    async def run(self) -> None:
        """Ask for work until stopped. Raise if the request is invalid or not permitted: repeating it cannot help."""
        ahead = asyncio.create_task(self._ask_ahead())
        try:
            await self._ask()
        finally:
            ahead.cancel()

    async def stop(self) -> None:
        """Stop receiving tasks."""
        self._stopping = True
        await asyncio.gather(self._parked.stop(), self._ahead.stop())

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while not self._stopping:
            free = max(self._room(self._slots), self._room_ahead(self._ahead))
            if free <= 0:
                await self._wait_for_slot()
                continue
            asked = loop.time()
            answered = await self._parked.ask(min(free, MAX_ASK))
            error = self._parked.error
            if isinstance(error, errors.InvalidError | errors.UnauthorizedError):
                raise error
            if error is not None:
                self._outages.failed(error)
            elif answered:
                self._outages.recovered()
            if error is not None or (self._parked.empty and loop.time() - asked < self._wait_ms / 2000):
                await asyncio.sleep(backoff.next_s(((error and error.retry_after_ms) or 0) / 1000))
            elif answered:
                backoff.reset()

    async def _ask_ahead(self) -> None:
        while not self._stopping:
            await self._brief.wait()
            room = self._room_ahead(self._parked)
            if not room:
                await self._wait_for_slot()
            elif not await self._ahead.ask(room) or self._ahead.error is not None:
                self.not_brief()

    def _room_ahead(self, other: Asker) -> int:
        """Return how many tasks to ask for ahead of free slots, beside those that `other` asks for."""
        room = min(MAX_TASKS, 2 * self._slots, self._room(HELD * self._slots) - other.asked)
        return room if self._brief.is_set() and room >= AHEAD_FROM else 0

    async def _wait_for_slot(self) -> None:
        self._free.clear()
        await self._free.wait()

    def _on_tasks(self, asker: Asker, tasks: list[TaskMessage]) -> None:
        if len(tasks) < max(AHEAD_FROM, min(asker.asked, MAX_TASKS)):
            self.not_brief()
        else:
            now = time.monotonic()
            if now - self._full_at < BRIEF_S and self._room(self._slots) == self._slots:
                self._brief.set()
            self._full_at = now
        if tasks:
            self._accept(tasks)
