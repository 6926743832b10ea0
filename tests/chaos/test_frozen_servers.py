"""A server that hangs (SIGSTOP): callers get a typed error in time, nothing is lost, and nobody has to lend a hand."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import nats.errors
import pytest

from penstock import PenstockError
from penstock.runtime.running import VALKEY_S
from penstock.testing.servers import NatsServer, ServerProcess, ValkeyServer, running
from running_penstock import RunningPenstock, fence

SLACK_S = 40.0
"""For a slow machine. Without its timeout a service would not answer before Valkey goes on."""
JOBS = 50


@pytest.fixture
def valkey() -> Iterator[ServerProcess]:
    with running(ValkeyServer) as server:
        yield server


@pytest.fixture
def nats_server() -> Iterator[ServerProcess]:
    with running(NatsServer) as server:
        yield server


@pytest.fixture
async def penstock(nats_server: ServerProcess, valkey: ServerProcess) -> AsyncIterator[RunningPenstock]:
    async with RunningPenstock.open(nats_server.url, valkey.url) as house:
        yield house


def job(n: int) -> dict[str, object]:
    return {"kind": "test.job", "idempotency_key": f"job-{n}"}


async def created_once(penstock: RunningPenstock, *others: str) -> None:
    """Repeat all creates, as clients do after an error; then complete all. Each job must exist once."""
    made = await asyncio.gather(*(penstock.request("execution.create", job(n)) for n in range(JOBS)))
    ids = {each["execution_id"] for each in made}
    assert len(ids) == JOBS
    assert {item["execution_id"] for item in (await penstock.request("execution.list"))["items"]} == ids | {
        *others
    }
    while tasks := await penstock.take(JOBS, start=True, wait_ms=0):
        done = [{**fence(task), "result": None} for task in tasks]
        assert all("ok" in each for each in await penstock.request("lease.complete", done))
    for id in ids:
        await penstock.reaches(id, "completed")


async def test_valkey_hangs(penstock: RunningPenstock, valkey: ServerProcess) -> None:
    first = await penstock.create()
    [held] = await penstock.take(start=True, lease_ttl_ms=60_000)

    async def ready() -> bool:
        return all(service.health.ready for service in penstock.running.values())

    async def known() -> bool:
        return all("valkey" in service.health.missing() for service in penstock.running.values())

    valkey.freeze()
    began = time.monotonic()
    asked = [penstock.refused("execution.create", job(n)) for n in range(JOBS)]
    asked += [penstock.refused("execution.get", {"execution_id": first})]
    asked += [penstock.refused("lease.complete", {**fence(held), "result": 1})]
    errors: list[PenstockError] = await asyncio.gather(*asked)
    assert {error.code for error in errors} == {"valkey_unavailable"}
    assert all(error.retryable and error.retry_after_ms for error in errors)
    assert time.monotonic() - began < VALKEY_S + SLACK_S
    await penstock.until(known, bool, "all services to know it, also those that nobody asks")
    valkey.thaw()
    await penstock.until(ready, bool, "readiness")
    await penstock.request("lease.complete", {**fence(held), "result": 1})
    await penstock.reaches(first, "completed")
    await created_once(penstock, first)


async def test_nats_hangs(penstock: RunningPenstock, nats_server: ServerProcess) -> None:
    nats_server.freeze()
    asked = [penstock.request("execution.create", job(n), timeout=1.0) for n in range(JOBS)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, nats.errors.TimeoutError) for each in answers), answers
    nats_server.thaw()
    await created_once(penstock)
