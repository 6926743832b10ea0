"""Waves of executions for chaos tests, the workers that do them, and what the audit trail says about them."""

import asyncio
import itertools
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import nats

from penstock import Client, PenstockError, audit
from penstock.bus import streams
from penstock.states import TERMINAL

PER_WAVE = 60
WORKER = Path(__file__).parent / "chaos" / "load_worker.py"


async def start_worker(nats_url: str, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(WORKER),
        env={**os.environ, "PENSTOCK_NATS_URL": nats_url, **env},
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
    connection = await nats.connect(nats_url.split(","))
    try:
        js = connection.jetstream()
        name = streams.stream_name("penstock", streams.AUDIT)
        by_id: defaultdict[str, list[audit.Event]] = defaultdict(list)
        seen, deadline = 0, time.monotonic() + 60
        while True:
            try:
                last = (await js.stream_info(name)).state.last_seq
                async for page in audit.pages(connection, name, seen + 1, last):
                    for seq, body in page:
                        seen, event = seq, audit.decode(body)
                        if event.id in ids:
                            by_id[event.id].append(event)
            except nats.errors.Error as error:  # a cluster may still elect the stream's leader
                assert time.monotonic() < deadline, f"the trail cannot be read: {error!r}"
                continue
            done = {i for i, events in by_id.items() if events[-1].to in TERMINAL}
            if done == ids:
                report = await audit.verify(connection, name)
                assert report.ok, report.sentence()
                return by_id
            assert time.monotonic() < deadline, f"{len(ids - done)} executions have not ended in the trail"
            await asyncio.sleep(0.1)
    finally:
        await connection.close()


def all_completed(records: dict[str, Any], trail: dict[str, list[audit.Event]]) -> None:
    """Check that each execution has completed exactly once, and that the trail lacks none of its events."""
    states = Counter(record.state for record in records.values())
    assert states == {"completed": len(records)}, [
        (record.execution_id, record.failure) for record in records.values() if record.state != "completed"
    ]
    for execution_id, events in trail.items():
        assert [event.seq for event in events] == list(range(1, len(events) + 1)), execution_id
        assert sum(event.event == "completed" for event in events) == 1, execution_id


def no_overlaps(log: Path) -> None:
    """Check that no two attempts of an execution ran at the same time."""
    runs: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        execution_id, began, ended_at = line.split()
        runs[execution_id].append((float(began), float(ended_at)))
    assert runs
    for execution_id, times in runs.items():
        for (_, first_ended), (second_began, _) in itertools.pairwise(sorted(times)):
            assert first_ended <= second_began, execution_id
