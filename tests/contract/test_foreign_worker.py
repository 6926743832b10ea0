"""A worker without our SDK: the JavaScript program of docs/writing-a-worker.md, unchanged."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from node import node_folder
from penstock import Client
from running_penstock import WAIT_S, RunningPenstock


@pytest.fixture
async def worker(penstock: RunningPenstock) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        "node",
        str(await node_folder() / "worker.mjs"),
        penstock.settings.nats_url,
        env={**os.environ, "PENSTOCK_ROOT": penstock.root},
    )
    yield process
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_it_works_waits_and_stops(
    penstock: RunningPenstock, worker: asyncio.subprocess.Process
) -> None:
    client: Client = await penstock.client()
    doubled, failed, waits = await client.submit_many(
        [("js.double", 21), ("js.fail", None), ("js.wait", None)]
    )
    assert await doubled.result(timeout=WAIT_S) == 42
    record = await failed.wait(timeout=WAIT_S)
    assert (record.state, record.failure and record.failure["reason"]) == ("failed", "no luck")
    await penstock.reaches(waits.execution_id, "suspended")
    await client.send_signal(waits.execution_id, "go", {"n": 1})
    assert await waits.result(timeout=WAIT_S) == [{"n": 1}]
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.wait(), 20) == 0


async def test_its_work_survives_its_death(
    penstock: RunningPenstock, worker: asyncio.subprocess.Process
) -> None:
    client: Client = await penstock.client()
    run = await client.submit("js.wait")
    await penstock.reaches(run.execution_id, "suspended")
    worker.kill()
    await worker.wait()
    await client.send_signal(run.execution_id, "go")
    again = await asyncio.create_subprocess_exec(
        "node",
        str(await node_folder() / "worker.mjs"),
        penstock.settings.nats_url,
        env={**os.environ, "PENSTOCK_ROOT": penstock.root},
    )
    try:
        assert await run.result(timeout=WAIT_S) == [None]
    finally:
        again.kill()
        await again.wait()
