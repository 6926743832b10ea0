"""Calls held open until something has ended: they look again when a hint comes, and every sweep in case it was lost."""

import asyncio
from typing import Final

import pytest

from penstock.errors import PenstockError, make
from penstock.runtime.parking import Parking

DEADLINE_S: Final = 10.0
LONG_S: Final = 3600.0


class Thing:
    """Something that ends, and how often it was looked at."""

    def __init__(self) -> None:
        self.over = False
        self.looks = 0
        self.looked = asyncio.Event()

    async def look(self) -> bool:
        self.looks += 1
        self.looked.set()
        return self.over

    async def wait(self, parking: Parking, seconds: float = LONG_S) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            return await parking.until("a", seconds, self.look, lambda over: over)


async def test_a_hint_ends_the_wait() -> None:
    parking, thing = Parking(LONG_S), Thing()
    waiting = [asyncio.create_task(thing.wait(parking)) for _ in range(3)]
    await thing.looked.wait()
    parking.wake(0, ["b"])
    await asyncio.sleep(0)
    assert thing.looks == 3
    thing.over = True
    parking.wake(0, ["b", "a"])
    assert await asyncio.gather(*waiting) == [True] * 3
    assert thing.looks == 6


async def test_without_a_hint_it_looks_again_every_sweep() -> None:
    parking, thing = Parking(0.01), Thing()
    waiting = asyncio.create_task(thing.wait(parking))
    async with asyncio.timeout(DEADLINE_S):
        while thing.looks < 3:
            thing.looked.clear()
            await thing.looked.wait()
    thing.over = True
    assert await waiting


async def test_it_answers_as_it_is_at_the_end_of_the_time_and_when_draining() -> None:
    parking, thing = Parking(LONG_S), Thing()
    assert await thing.wait(parking, 0.0) is False
    assert await thing.wait(parking, 0.01) is False
    waiting = asyncio.create_task(thing.wait(parking))
    thing.looked.clear()
    await thing.looked.wait()
    await parking.drain()
    assert await waiting is False
    assert await thing.wait(parking) is False


async def test_an_error_of_the_look_is_raised() -> None:
    async def look() -> bool:
        raise make("flow_not_found")

    with pytest.raises(PenstockError, match="flow_not_found"):
        await Parking(LONG_S).until("a", LONG_S, look, lambda over: over)
