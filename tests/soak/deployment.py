"""A `penstock up` and workers, as processes of their own, that are started again whenever they end."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from commands import BARE, Up

TESTS = Path(__file__).resolve().parents[1]
SCALE = ("--scale", "scheduler=2", "--scale", "signal-router=2")


class Workers:
    """Worker processes, each with its journal in `folder`."""

    def __init__(self, url: str, folder: Path, count: int) -> None:
        self._url = url
        self._folder = folder
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keepers = [asyncio.create_task(self._keep(f"worker-{n}")) for n in range(1, count + 1)]

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items() if process.returncode is None}

    async def _keep(self, name: str) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), *sys.path))}
        journal = self._folder / f"{name}.jsonl"
        while True:
            with (self._folder / f"{name}.log").open("ab") as log:
                self._processes[name] = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "soak.worker", self._url, str(journal), name,
                    env=env, stdout=log, stderr=log,
                )  # fmt: skip
            await self._processes[name].wait()

    async def stop(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(process.wait() for process in self._processes.values()))


class Deployment:
    """All processes of a soak."""

    def __init__(self, up: Up, workers: Workers) -> None:
        self.up = up
        self.workers = workers
        self.url: str = up.facts["nats_url"]

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, workers: int = 3, nodes: int = 1) -> AsyncIterator[Self]:
        """Start everything, on so many nodes; the workers' journals are in `folder`."""
        shape = ("--partitions", "2") if nodes == 1 else ("--nodes", str(nodes))
        async with Up.open(folder, *BARE, *shape, *SCALE) as up:
            crew = Workers(up.facts["nats_url"], folder, workers)
            try:
                yield cls(up, crew)
            finally:
                await crew.stop()

    def pids(self) -> dict[str, int | None]:
        """Return what may be hit, by name."""
        facts = self.up.facts
        return {**facts["pids"], **facts["server_pids"], **self.workers.pids()}
