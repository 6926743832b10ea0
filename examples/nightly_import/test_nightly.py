"""A night whose worker is killed among the files: another one goes on, and each file is in the report once."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from nightly_import.nightly import Report, plan
from penstock import Client
from penstock.messages.common import Record
from penstock.testing import Penstock

pytestmark = pytest.mark.asyncio

FILES = int(os.environ.get("NIGHTLY_FILES", "120"))
"""With 1,000, as the example has them, this takes a third of a minute."""
WAIT_S = 60 + FILES / 4


async def start(penstock: Penstock) -> asyncio.subprocess.Process:
    """Run the example as a process of its own."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nightly_import.nightly", str(FILES)),
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PENSTOCK_NATS_URL": penstock.url, "PENSTOCK_ROOT": penstock.root},
    )


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


async def files(client: Client) -> list[Record]:
    return [each async for each in client.list(kind="import.file", page=1000)]


async def test_a_night_survives_its_worker(penstock: Penstock) -> None:
    client = await penstock.client()
    schedule = await plan(client, FILES)
    assert schedule.next_at is not None
    penstock.clock.move(schedule.next_at - await penstock.clock.now())

    async def a_few_are_loaded() -> bool:
        return sum(each.state == "completed" for each in await files(client)) >= FILES // 10

    async def all_are_loaded() -> bool:
        return (await night.get()).reason == "delay"

    killed = await start(penstock)
    try:
        await until(a_few_are_loaded)
    finally:
        killed.kill()
        await killed.wait()
    assert any(each.state != "completed" for each in await files(client)), "it was killed too late"
    penstock.clock.move(timedelta(minutes=1))  # its leases expire
    other = await start(penstock)
    try:
        night = client.run((await client.schedules.get(schedule.schedule_id)).last_execution_id or "")
        await until(all_are_loaded)
        penstock.clock.move(timedelta(minutes=10))
        report = await night.result(timeout=WAIT_S, type=Report)
    finally:
        other.kill()
        await other.wait()
    bad = [f"orders/{number:04}.csv" for number in range(13, FILES, 100)]
    problems = dict.fromkeys(bad, "step:load: the header is missing")
    assert report == Report(FILES, (FILES - len(bad)) * 1000, problems)
    assert len(await files(client)) == FILES, "each file has one child"
