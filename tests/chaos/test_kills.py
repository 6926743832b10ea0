"""Kill every service, a worker and both servers under load: each submitted execution still ends exactly once."""

import asyncio
import time
from pathlib import Path

import pytest

import commands
from commands import BARE, Up
from penstock import Client
from penstock.verbs import SERVICES
from waves import PER_WAVE, all_completed, audit_events, ended, start_worker, submit_wave

WAVES = 8
DEADLINE_S = 90.0


@pytest.mark.parametrize("victims", ["services", "servers"])
async def test_everything_ends_exactly_once(tmp_path: Path, victims: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    async with Up.open(tmp_path, *BARE) as up:
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
        all_completed(records, await audit_events(url, set(ids)))
