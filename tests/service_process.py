"""A service as a process of its own, which a test can stop, freeze and kill."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from pathlib import Path

from running_penstock import RunningPenstock


async def start_service(
    penstock: RunningPenstock, name: str, ready: Path, *, nats_url: str | None = None
) -> Process:
    """Start a service (`signal-router`) beside the others. Return it when its file `ready`, a new one, is there."""
    settings = penstock.settings
    environ = {
        **os.environ,
        "PENSTOCK_NATS_URL": nats_url or settings.nats_url,
        "PENSTOCK_VALKEY_URL": settings.valkey_url,
        "PENSTOCK_ROOT": settings.root,
        "PENSTOCK_PARTITIONS": str(settings.partitions),
        "PENSTOCK_SWEEP_MS": str(settings.sweep_ms),
        "PENSTOCK_DEV": "1",
        "PENSTOCK_METRICS_PORT": "0",
        "PENSTOCK_READY_FILE": str(ready),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    module = f"penstock_{name.replace('-', '_')}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env=environ, stderr=asyncio.subprocess.DEVNULL
    )
    await penstock.until(lambda: asyncio.sleep(0, ready.exists()), bool, f"a {name} process")
    return process


async def kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
