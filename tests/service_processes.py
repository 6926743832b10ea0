"""Penstock's services as processes of their own, which a test may kill."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from commands import clean_environment
from running_penstock import RunningPenstock


async def start_process(
    penstock: RunningPenstock, service: str, ready: Path, nats_url: str | None = None
) -> Process:
    """Start a service beside those of the test's Penstock. Return it when it is ready (it then makes that file)."""
    settings = penstock.settings
    await asyncio.to_thread(ready.unlink, missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"penstock_{service.replace('-', '_')}",
        env={
            **clean_environment(),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PENSTOCK_NATS_URL": nats_url or settings.nats_url,
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
    await penstock.until(lambda: asyncio.to_thread(ready.exists), bool, f"the {service}")
    return process


async def kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@asynccontextmanager
async def process_of(
    penstock: RunningPenstock, service: str, ready: Path, nats_url: str | None = None
) -> AsyncIterator[Process]:
    """Run a service as a process; kill it at the end, if the test has not done so."""
    process = await start_process(penstock, service, ready, nats_url)
    try:
        yield process
    finally:
        await kill(process)
