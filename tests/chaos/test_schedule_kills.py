"""Kill schedulers while schedules are due: every due time still has exactly one execution."""

import asyncio
import contextlib
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nats.errors

from penstock import PenstockError
from running_penstock import RunningPenstock

SCHEDULES = 10
COUNT = 60
EVERY_MS = 100
KILLS = 4


async def start_scheduler(penstock: RunningPenstock, ready: Path) -> asyncio.subprocess.Process:
    """Start a scheduler process. Return it when it is ready."""
    _forget(ready)
    settings = penstock.settings
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "penstock_scheduler",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PENSTOCK_NATS_URL": settings.nats_url,
            "PENSTOCK_VALKEY_URL": settings.valkey_url,
            "PENSTOCK_ROOT": settings.root,
            "PENSTOCK_PARTITIONS": str(settings.partitions),
            "PENSTOCK_SWEEP_MS": str(settings.sweep_ms),
            "PENSTOCK_DEV": "1",
            "PENSTOCK_METRICS_PORT": "0",
            "PENSTOCK_READY_FILE": str(ready),
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(20):
        while not _there(ready):  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.02)
    return process


def _forget(ready: Path) -> None:
    ready.unlink(missing_ok=True)


def _there(ready: Path) -> bool:
    return ready.exists()


async def retrying(penstock: RunningPenstock, verb: str, body: Any) -> Any:
    """Repeat the request until a scheduler answers."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(nats.errors.Error, TimeoutError, PenstockError):
                return await penstock.request(verb, body, timeout=2)
            await asyncio.sleep(0.05)


async def test_every_due_time_has_exactly_one_execution(
    nats_url: str, valkey_url: str, tmp_path: Path
) -> None:
    async with RunningPenstock.open(nats_url, valkey_url, partitions=2) as penstock:
        await penstock.running.pop("scheduler").stop()
        schedulers = [await start_scheduler(penstock, tmp_path / f"ready-{n}") for n in range(2)]
        try:
            made = [
                await retrying(
                    penstock,
                    "schedule.create",
                    {
                        "every_ms": EVERY_MS,
                        "count": COUNT,
                        "execution": {"kind": "test.tick", "tags": {"n": str(n)}},
                        "idempotency_key": f"schedule-{n}",
                    },
                )
                for n in range(SCHEDULES)
            ]
            for n in range(KILLS):
                victim = n % 2
                schedulers[victim].kill()
                await schedulers[victim].wait()
                schedulers[victim] = await start_scheduler(penstock, tmp_path / f"ready-{victim}")

            async def finished() -> int:
                page = await retrying(penstock, "schedule.list", {"status": "finished"})
                return len(page["items"])

            await penstock.until(finished, lambda n: n == SCHEDULES, "all schedules finished")
            times: Counter[tuple[str, int]] = Counter()
            cursor: dict[str, str] = {}
            while True:
                page = await retrying(
                    penstock, "execution.list", {"kind": "test.tick", "limit": 1000, **cursor}
                )
                for item in page["items"]:
                    body = {"execution_id": item["execution_id"], "limit": 1}
                    history = await retrying(penstock, "execution.history", body)
                    data = history["items"][0]["data"]
                    times[data["schedule_id"], data["due_at"]] += 1
                if page["cursor"] is None:
                    break
                cursor = {"cursor": page["cursor"]}
            expected = [
                (each["schedule_id"], each["created_at"] + EVERY_MS * n)
                for each in made
                for n in range(1, COUNT + 1)
            ]
            assert times == Counter(expected)
        finally:
            for process in schedulers:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
