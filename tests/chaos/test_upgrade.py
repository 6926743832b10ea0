"""Rolling upgrades: under load, each service is replaced by its next release, one at a time, and back again."""

import asyncio
import os
import subprocess
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from commands import clean_environment
from penstock import Client
from penstock.client import Run
from penstock.verbs import SERVICES
from servers import nats_server, valkey_server
from waves import audit_events

HERE = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("load_worker.py")
PREVIOUS = "ca05cc2a7a27d2dcd2f2ef6929e0c6beae18fd94"
"""The commit of the previous release, v0.1.0. Raise it with each release."""
READY_S = 60.0
KINDS = ("load.quick", "load.flaky", "load.slow")


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous release's packages and Lua files, taken from git's history."""
    packed = subprocess.run(
        ["git", "archive", PREVIOUS, "shared", "services", "lua"], cwd=HERE, capture_output=True, check=False
    )
    if packed.returncode:
        pytest.skip(f"this checkout's history has no {PREVIOUS} (git fetch --unshallow brings it)")
    folder = tmp_path_factory.mktemp("previous")
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
    return folder


class Deployment:
    """Services and workers as processes, each of the release whose packages are in `tree`."""

    def __init__(self, folder: Path, nats_url: str, valkey_url: str) -> None:
        self._folder = folder
        self._urls = {"PENSTOCK_NATS_URL": nats_url, "PENSTOCK_VALKEY_URL": valkey_url}
        self._count = 0
        self.logs: list[Path] = []
        self.processes: dict[str, Process] = {}

    async def _run(self, tree: Path, name: str, *command: str, **env: str) -> Process:
        self._count += 1
        log = self._folder / f"{self._count}-{name}.log"
        self.logs.append(log)
        with log.open("wb") as stderr:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                env={
                    **clean_environment(),
                    **self._urls,
                    # What it imports comes from `tree`: this path goes before that of the installed packages.
                    "PYTHONPATH": os.pathsep.join([str(tree / "shared"), str(tree / "services")]),
                    "PENSTOCK_METRICS_PORT": "0",
                    "PENSTOCK_SWEEP_MS": "1000",
                    "PENSTOCK_TOKEN_KEY": "k" * 32,
                    **env,
                },
                stderr=stderr,
            )

    async def replace(self, service: str, tree: Path) -> None:
        """Start a service, wait until it is ready, then end its predecessor, as a rolling upgrade does."""
        before = self.processes.get(service)
        ready = self._folder / f"{service}-{self._count}.ready"
        module = f"penstock_{service.replace('-', '_')}"
        process = await self._run(tree, service, "-m", module, PENSTOCK_READY_FILE=str(ready))
        self.processes[service] = process
        async with asyncio.timeout(READY_S):
            while not ready.exists():
                assert process.returncode is None, f"{service} has ended:\n{self.logs[-1].read_text()}"
                await asyncio.sleep(0.02)
        if before is not None:
            before.terminate()
            assert await asyncio.wait_for(before.wait(), READY_S) == 0, f"{service} did not end well"

    async def work(self, tree: Path) -> None:
        """Start a worker of this release's SDK."""
        self.processes[f"worker-{self._count}"] = await self._run(tree, "worker", str(WORKER))

    async def end(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(process.wait() for process in self.processes.values()))

    def complaints(self) -> list[str]:
        """Return what services and workers have logged as a warning or worse."""
        return [
            f"{log.name}: {line}"
            for log in self.logs
            for line in log.read_text().splitlines()
            if any(word in line.lower() for word in ("warning", "error", "traceback"))
            and "known holes" not in line  # in this machine's Valkey
        ]


@asynccontextmanager
async def deployed(folder: Path, tree: Path) -> AsyncIterator[tuple[Deployment, str]]:
    """Run all services of one release on servers of their own, with a worker of it."""
    with nats_server() as nats_url, valkey_server() as valkey_url:
        deployment = Deployment(folder, nats_url, valkey_url)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(deployment.end)
            # The first one alone makes the streams and loads the library.
            first, *others = SERVICES
            await deployment.replace(first, tree)
            await asyncio.gather(*(deployment.replace(service, tree) for service in others))
            await deployment.work(tree)
            yield deployment, nats_url


class Load:
    """Executions, submitted steadily until `stop` is set. No request may fail."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.stop = asyncio.Event()
        self.runs: list[tuple[int, Run]] = []

    async def submit(self) -> None:
        n = 0
        while not self.stop.is_set():
            wave = range(n, n + 12)
            runs = await asyncio.gather(
                *(self._client.submit(KINDS[i % 3], {"n": i}, max_attempts=3) for i in wave)
            )
            self.runs += zip(wave, runs, strict=True)
            n += len(runs)
            await asyncio.sleep(0.2)  # the replaced services need the processors, too

    async def check(self) -> None:
        """Assert that each execution has ended with its result."""
        results = await asyncio.gather(*(run.result(timeout=READY_S) for _, run in self.runs))
        assert [result - n for (n, _), result in zip(self.runs, results, strict=True)] == [1] * len(results)


async def test_services_are_replaced_one_by_one_and_back(tmp_path: Path, previous: Path) -> None:
    async with deployed(tmp_path, previous) as (deployment, nats_url):
        await deployment.work(HERE)
        async with await Client.connect(nats_url) as client:
            load = Load(client)
            submitting = asyncio.create_task(load.submit())
            try:
                # Forth: the first that is new brings the newer library. Back: older services go on with it.
                for tree in (HERE, previous):
                    for service in SERVICES:
                        await deployment.replace(service, tree)
                        assert not submitting.done(), submitting.exception()
            finally:
                load.stop.set()
                await submitting
            await load.check()
        ids = {run.execution_id for _, run in load.runs}
        trail = await audit_events(nats_url, ids)
    endings = Counter(sum(event.event == "completed" for event in events) for events in trail.values())
    assert endings == {1: len(ids)}
    assert deployment.complaints() == []
