"""Kill every service, a worker and both servers under load: each submitted execution still ends exactly once."""

import asyncio
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import nats
import pytest

import commands
from commands import Up
from penstock import Client, PenstockError, audit
from penstock.bus import streams
from penstock.states import TERMINAL
from penstock.verbs import SERVICES

WAVES = 8
PER_WAVE = 60
DEADLINE_S = 90.0
WORKER = Path(__file__).with_name("load_worker.py")


async def start_worker(nats_url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(WORKER),
        env={**os.environ, "PENSTOCK_NATS_URL": nats_url},
        stderr=asyncio.subprocess.DEVNULL,
    )


async def retrying(call: Any, deadline: float) -> Any:
    """Repeat a request until it is answered, as a user's program would; the idempotency key makes that safe."""
    while True:
        try:
            return await call()
        except (PenstockError, nats.errors.Error, TimeoutError):
            assert time.monotonic() < deadline, "no answer before the deadline"
            await asyncio.sleep(0.1)


async def submit_wave(client: Client, wave: int, deadline: float) -> list[str]:
    kinds = ("load.quick", "load.flaky", "load.slow")

    async def one(number: int) -> str:
        run = await retrying(
            lambda: client.submit(
                kinds[number % 3],
                {"n": number},
                max_attempts=3,
                idempotency_key=f"wave-{wave}-{number}",
            ),
            deadline,
        )
        return run.execution_id

    return await asyncio.gather(*map(one, range(PER_WAVE)))


async def ended(client: Client, ids: list[str], deadline: float) -> dict[str, Any]:
    async def one(execution_id: str) -> Any:
        while True:
            record = await retrying(
                lambda: client.call("execution.wait", {"execution_id": execution_id}), deadline
            )
            if record.state in TERMINAL:
                return record
            assert time.monotonic() < deadline, f"{execution_id} is still {record.state}"

    records = await asyncio.gather(*map(one, ids))
    return {record.execution_id: record for record in records}


async def audit_events(nats_url: str, ids: set[str]) -> dict[str, list[audit.Event]]:
    """Wait until all executions have ended in the audit stream. Return their events, by id, in stream order."""
    connection = await nats.connect(nats_url)
    try:
        js = connection.jetstream()
        name = streams.stream_name("penstock", streams.AUDIT)
        by_id: defaultdict[str, list[audit.Event]] = defaultdict(list)
        seen, deadline = 0, time.monotonic() + 30
        while True:
            last = (await js.stream_info(name)).state.last_seq
            async for page in audit.pages(connection, name, seen + 1, last):
                for _, body in page:
                    event = audit.decode(body)
                    if event.id in ids:
                        by_id[event.id].append(event)
            seen = last
            done = {i for i, events in by_id.items() if events[-1].to in TERMINAL}
            if done == ids:
                report = await audit.verify(connection, name)
                assert report.ok, report.sentence()
                return by_id
            assert time.monotonic() < deadline, f"{len(ids - done)} executions have not ended in the trail"
            await asyncio.sleep(0.1)
    finally:
        await connection.close()


@pytest.mark.parametrize("victims", ["services", "servers"])
async def test_everything_ends_exactly_once(tmp_path: Path, victims: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    async with Up.open(tmp_path) as up:
        url = up.facts["nats_url"]
        targets = (
            [("pids", name) for name in SERVICES]
            if victims == "services"
            else [("server_pids", name) for name in ("valkey-server", "nats-server")]
        )
        workers = [await start_worker(url) for _ in range(2)]
        try:
            async with await Client.connect(url) as client:
                waves: list[asyncio.Task[list[str]]] = []
                for wave in range(WAVES):
                    waves.append(asyncio.create_task(submit_wave(client, wave, deadline)))
                    await asyncio.sleep(0.3)
                    if wave < len(targets):
                        group, name = targets[wave]
                        if (victim := up.facts[group][name]) is not None:
                            commands.kill(victim)
                    elif wave == len(targets):
                        workers[0].kill()
                        workers[0] = await start_worker(url)
                ids = [execution_id for wave in await asyncio.gather(*waves) for execution_id in wave]
                assert len(set(ids)) == WAVES * PER_WAVE
                records = await ended(client, ids, deadline)
        finally:
            for worker in workers:
                worker.terminate()
            await asyncio.gather(*(worker.wait() for worker in workers))
        states = Counter(record.state for record in records.values())
        assert states == {"completed": len(ids)}, [
            (record.execution_id, record.failure)
            for record in records.values()
            if record.state != "completed"
        ]
        trail = await audit_events(url, set(ids))
        for execution_id, events in trail.items():
            assert [event.seq for event in events] == list(range(1, len(events) + 1)), execution_id
            assert sum(event.event == "completed" for event in events) == 1, execution_id
