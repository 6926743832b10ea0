"""Kill schedulers while schedules are due: every due time still has exactly one execution."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import nats.errors

from penstock import PenstockError
from running_penstock import RunningPenstock
from service_processes import kill, start_process

SCHEDULES = 10
COUNT = 60
EVERY_MS = 100
KILLS = 4


async def retrying(penstock: RunningPenstock, verb: str, body: Any) -> Any:
    """Repeat the request until a scheduler answers."""
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(nats.errors.Error, TimeoutError, PenstockError):
                return await penstock.request(verb, body, timeout=5)
            await asyncio.sleep(0.05)


async def test_every_due_time_has_exactly_one_execution(
    nats_url: str, valkey_url: str, tmp_path: Path
) -> None:
    async with RunningPenstock.open(nats_url, valkey_url, partitions=2) as penstock:
        await penstock.running.pop("scheduler").stop()
        schedulers = [await start_process(penstock, "scheduler", tmp_path / f"ready-{n}") for n in range(2)]
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
                await kill(schedulers[victim])
                schedulers[victim] = await start_process(penstock, "scheduler", tmp_path / f"ready-{victim}")

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
                await kill(process)
