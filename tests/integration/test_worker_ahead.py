"""A worker asks ahead of its slots while its tasks are brief, and gives back what finds no slot."""

import asyncio
from typing import Any, NamedTuple

import pytest

from penstock.worker import _intake, _surplus
from scripted_services import DEADLINE_S, Running, Services

SLOTS = 16


class Slots:
    """Handlers that are brief, or that wait for `go_on`; and how many ran at a time."""

    def __init__(self, running: Running) -> None:
        self.go_on = asyncio.Event()
        self.most = self.ended = self._now = 0
        running.worker.handler("brief")(self.brief)
        running.worker.handler("long")(self.long)

    async def brief(self) -> None:
        await self._run(asyncio.sleep(0))

    async def long(self) -> None:
        await self._run(self.go_on.wait())

    async def _run(self, what: Any) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        await what
        self._now -= 1
        self.ended += 1


class Asked(NamedTuple):
    """How many tasks were asked for, by each request."""

    waiting: list[int]
    ahead: list[int]
    """By those that do not wait. They are told so if there is no work."""


@pytest.fixture
def asked(services: Services) -> Asked:
    asked = Asked([], [])

    def answer(item: Any) -> Any:
        if item.wait_ms:
            asked.waiting.append(item.max)
            return None
        asked.ahead.append(item.max)
        return None if services.ready else {"tasks": []}

    services.scripts["work.next"] = answer
    return asked


def completed(services: Services) -> int:
    return len(services.got("lease.complete"))


async def test_brief_tasks_are_asked_for_ahead(
    services: Services, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_intake, "BRIEF_S", DEADLINE_S)  # so that a busy machine is no slow handler
    monkeypatch.setattr(_surplus, "SLOT_S", DEADLINE_S)
    running = Running(services, concurrency=SLOTS)
    slots = Slots(running)
    services.ready.extend(services.task("brief") for _ in range(40 * SLOTS))
    async with running:
        await services.until(lambda: completed(services) == 40 * SLOTS)
        await services.until(lambda: services.parked)
        assert max(asked.ahead) == max(asked.waiting) == 2 * SLOTS
        assert min(asked.ahead) >= _intake.AHEAD_FROM and slots.most == SLOTS
        assert len(services.parked) == 1  # without work there is one request, and it waits
        assert asked.waiting[-1] == SLOTS
    assert not services.got("lease.release")


async def test_what_finds_no_slot_goes_back(
    services: Services, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_intake, "BRIEF_S", DEADLINE_S)
    monkeypatch.setattr(_surplus, "SLOT_S", 1.0)
    running = Running(services, concurrency=SLOTS)
    slots = Slots(running)
    services.ready.extend(services.task("brief") for _ in range(10 * SLOTS))
    services.ready.extend(services.task("long") for _ in range(6 * SLOTS))
    async with running:
        await services.until(lambda: services.got("lease.release"))
        await services.until(
            lambda: len(services.ready) + SLOTS + len(services.got("lease.release")) == 6 * SLOTS
        )
        released = services.got("lease.release")
        assert len(released) <= 5 * SLOTS and all(each.unbegun for each in released)
        slots.go_on.set()
        await services.until(lambda: completed(services) == 16 * SLOTS - len(released))
    assert slots.most == SLOTS


async def test_long_tasks_are_not_asked_for_ahead(services: Services, asked: Asked) -> None:
    running = Running(services, concurrency=SLOTS)
    slots = Slots(running)
    services.ready.extend(services.task("long") for _ in range(2 * SLOTS))
    async with running:
        await services.until(lambda: slots.most == SLOTS)
        await asyncio.sleep(2 * _intake.BRIEF_S)
        slots.go_on.set()
        await services.until(lambda: completed(services) == 2 * SLOTS)
        await services.until(lambda: services.parked)
    assert not asked.ahead and not services.got("lease.release")


async def test_asks_again_after_too_many_outcomes_were_on_their_way(services: Services) -> None:
    running = Running(services, concurrency=1)
    slots, answered = Slots(running), asyncio.Event()

    async def late(item: Any) -> Any:
        await answered.wait()
        return {"state": "completed"}

    services.scripts["lease.complete"] = late
    services.ready.extend(services.task("brief") for _ in range(300))
    async with running:
        await services.until(
            lambda: slots.ended > 4 + 256
        )  # the bound of undelivered outcomes (`_session.py`)
        answered.set()
        await services.until(lambda: not services.ready and services.parked)
        await services.until(lambda: len({each.lease_id for each in services.got("lease.complete")}) == 300)
    assert slots.most == 1
