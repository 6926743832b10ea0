"""Helpers for tests of an execution's life."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from penstock import Client, Worker
from running_penstock import WAIT_S, RunningPenstock, fence

HOUR_MS = 3_600_000


async def running(penstock: RunningPenstock, **spec: Any) -> dict[str, Any]:
    await penstock.create(**spec)
    return await penstock.begin()


async def outcome(penstock: RunningPenstock, verb: str, task: dict[str, Any], **more: Any) -> dict[str, Any]:
    return await penstock.request(f"lease.{verb}", fence(task) | more)


async def names(penstock: RunningPenstock, execution_id: str) -> list[str]:
    page = await penstock.request("execution.history", {"execution_id": execution_id})
    assert [event["seq"] for event in page["items"]] == list(range(1, len(page["items"]) + 1))
    return [event["event"] for event in page["items"]]


async def last(penstock: RunningPenstock, execution_id: str) -> dict[str, Any]:
    page = await penstock.request("execution.history", {"execution_id": execution_id})
    return page["items"][-1]


async def now(penstock: RunningPenstock) -> int:
    """Return the test Penstock's time (ms), which is read from a new execution."""
    return (await penstock.get(await penstock.create(lane="clock")))["created_at"]


@asynccontextmanager
async def working(penstock: RunningPenstock, **handlers: Any) -> AsyncIterator[Client]:
    """Run a worker with these handlers, and yield a client."""
    worker = Worker(penstock.settings.nats_url, root=penstock.root, grace=5.0, park=0.5)
    for kind, handler in handlers.items():
        worker.handler(kind)(handler)
    serving = asyncio.create_task(worker.run(handle_signals=False))
    async with await Client.connect(penstock.settings.nats_url, root=penstock.root) as client:
        yield client
        worker.stop()
        await asyncio.wait_for(serving, WAIT_S)
