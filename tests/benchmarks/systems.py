"""The measured systems, and how one is started: fresh servers, its services, its programs."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import redis

import servers
from benchmarks import install
from benchmarks.processes import Program, cpu_seconds

Durability = Literal["disk", "process"]
SERVICES: Final = (
    "scheduler",
    "lease-keeper",
    "signal-router",
    "mirror-observer",
    "cancel-reconciler",
    "audit-relay",
)
_HERE: Final = Path(__file__).parent
_TESTS: Final = _HERE.parent


@dataclass(frozen=True)
class System:
    """A measured system. executions: count of a full round, chosen so that a round takes seconds, not minutes."""

    name: str
    command: list[str]
    server: Literal["both", "valkey", "nats"]
    keeps: str
    """The guarantees of the system, beside the durability of its servers."""
    executions: int
    services: tuple[str, ...] = ()
    cwd: Path = _TESTS


def _module(python: Path | str, name: str) -> list[str]:
    return [str(python), "-m", f"benchmarks.peers.{name}"]


PENSTOCK: Final = System(
    "Penstock",
    _module(sys.executable, "penstock"),
    "both",
    "fenced leases, every change in the audit stream",
    20_000,
    SERVICES,
)
PEERS: Final = (
    System(
        "BullMQ",
        [shutil.which("node") or "node", str(_HERE / "peers" / "bullmq.mjs")],
        "valkey",
        "a lock for each job, no audit",
        20_000,
        cwd=install.NODE_HOME,
    ),
    System("streaQ", _module(install.PYTHON, "streaq"), "valkey", "no fencing, no audit", 4000),
    System("SAQ", _module(install.PYTHON, "saq"), "valkey", "no fencing, no audit", 4000),
    System("arq", _module(install.PYTHON, "arq"), "valkey", "no fencing, no audit", 2000),
    System(
        "taskiq-nats",
        _module(install.PYTHON, "taskiq_nats"),
        "nats",
        "acknowledged after it ran, no fencing, no audit",
        2000,
    ),
)


@dataclass
class House:
    """A running system: its servers and services."""

    system: System
    folder: Path
    nats_url: str = ""
    valkey_url: str = ""
    partitions: int = 1
    pids: dict[str, int] = field(default_factory=dict)

    @property
    def valkey(self) -> "redis.Redis":
        return redis.Redis.from_url(self.valkey_url, protocol=2)

    def program(self, role: str, **options: Any) -> Program:
        """Start the system's program in a role: create, work or latency."""
        url = self.valkey_url if self.system.server == "valkey" else self.nats_url
        command = [*self.system.command, role, url, json.dumps(options)]
        return Program(command, self.folder / f"{role}.log", cwd=self.system.cwd)

    def ask(self, role: str, *, timeout: float = 240, **options: Any) -> dict[str, Any]:
        """Run a program that prints one answer. Return the answer."""
        with self.program(role, **options) as program:
            return program.read(timeout)

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each server and service, so far."""
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def settle(self, timeout: float = 240) -> None:
        """Wait until background work is done: the outbox is relayed and no AOF rewrite runs."""
        valkey = self.valkey

        def quiet() -> bool:
            rewriting = valkey.info("persistence")["aof_rewrite_in_progress"]
            outboxes = (f"penstock:{{{partition}}}:outbox" for partition in range(self.partitions))
            return not rewriting and not any(valkey.xlen(outbox) for outbox in outboxes)

        wait_for(quiet, "the house to be quiet", timeout)


@contextmanager
def running(system: System, durability: Durability, partitions: int = 1) -> Iterator[House]:
    """Run fresh servers and the system's services on them. partitions: of Penstock's state."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name, ExitStack() as steps:
        house = House(system, Path(name), partitions=partitions)
        if system.server != "nats":
            valkey = partial(servers.ValkeyServer, durability=durability)
            house.valkey_url = _server(steps, valkey, house.folder / "valkey")
            house.pids["valkey-server"] = house.valkey.info("server")["process_id"]
        if system.server != "valkey":
            pid_file = house.folder / "nats.pid"
            nats = partial(servers.NatsServer, extra=f'pid_file: "{pid_file}"\n', durability=durability)
            house.nats_url = _server(steps, nats, house.folder / "nats")
            house.pids["nats-server"] = int(pid_file.read_text())
        ready = [house.folder / f"{service}.ready" for service in system.services]
        for service, file in zip(system.services, ready, strict=True):
            env = {
                "PENSTOCK_NATS_URL": house.nats_url,
                "PENSTOCK_VALKEY_URL": house.valkey_url,
                "PENSTOCK_PARTITIONS": str(partitions),
                "PENSTOCK_LOG_LEVEL": "warning",
                "PENSTOCK_TOKEN_KEY": "a key of no secrets, for benchmarks",
                "PENSTOCK_READY_FILE": str(file),
            }
            command = [sys.executable, "-m", f"penstock_{service.replace('-', '_')}"]
            process = Program(command, house.folder / f"{service}.log", env)
            steps.callback(process.stop)
            house.pids[service] = process.pid
        wait_for(lambda: all(file.exists() for file in ready), "the services", 240)
        yield house


def wait_for(condition: Callable[[], bool], what: str, timeout: float, every: float = 0.01) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {timeout:g} s for {what}, in vain")
        time.sleep(every)


def _server(steps: ExitStack, kind: Callable[[Path], Any], folder: Path) -> str:
    folder.mkdir()
    server = kind(folder)
    server.start()
    steps.callback(server.kill)
    return str(server.url)
