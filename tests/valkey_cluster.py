"""A real Valkey Cluster for tests: three primaries, each with a replica, and ways to do it harm."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, cast

from redis.asyncio import Redis
from redis.crc import key_slot

from penstock.local import cluster
from penstock.local.data_dir import DataDir
from penstock.local.problems import Problem
from penstock.local.servers import LOOPBACK, Durability, Server, choose_port
from penstock.testing.servers import TRIES, ServerProcess

PRIMARIES = 3
NODE_TIMEOUT_MS = 1000
DEADLINE_S = 60.0


class Member:
    """One node."""

    def __init__(self, port: int, password: str | None = None, host: str = LOOPBACK, **options: Any) -> None:
        """options: what the client takes besides, such as `username` and `ssl`."""
        self.host = host
        self.port = port
        self._password = password
        self._options = options

    @property
    def login(self) -> tuple[str, ...]:
        """What MIGRATE to this node has to say."""
        return ("AUTH", self._password) if self._password else ()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        client = cast("Any", Redis)(
            host=self.host, port=self.port, password=self._password, protocol=2, **self._options
        )
        try:
            yield client
        finally:
            await client.aclose()

    async def run(self, *command: Any) -> Any:
        async with self.client() as client:
            return await client.execute_command(*command)


M = TypeVar("M", bound=Member)


class Nodes(Generic[M]):
    """The nodes of a cluster that runs."""

    def __init__(self, members: Sequence[M]) -> None:
        self.members = members

    def on(self, port: int) -> M:
        return next(member for member in self.members if member.port == port)

    async def home(self, partition: int, seen_by: Member | None = None) -> M:
        """Return the primary that has the partition, as one node (default: the first) knows it."""
        slot = key_slot(b"%d" % partition)
        for first, last, primary, *_ in await (seen_by or self.members[0]).run("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.on(primary[1])
        raise AssertionError(f"nobody has slot {slot}")

    async def replica_of(self, primary: Member) -> M:
        """Return the replica of a primary, once it has all the data."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for _, port, _ in (await primary.run("ROLE"))[2]:
                    replica = self.on(int(port))
                    if (await replica.run("ROLE"))[3] == b"connected":
                        return replica
                await asyncio.sleep(0.01)

    async def until_home_is(self, partition: int, wanted: Member) -> None:
        """Wait until this member itself knows that it serves the partition."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.home(partition, wanted) is not wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def begin_move(self, partition: int, source: Member, target: Member) -> None:
        """Begin to move a partition's slot, as `valkey-cli --cluster reshard` does."""
        slot = key_slot(b"%d" % partition)
        ids = [(await member.run("CLUSTER", "MYID")).decode() for member in (source, target)]
        await target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        await source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])

    async def move_keys(self, partition: int, source: Member, target: Member, most: int = 10**9) -> int:
        """Move so many keys of the slot. Return how many were moved."""
        slot, moved = key_slot(b"%d" % partition), 0
        while moved < most:
            keys = await source.run("CLUSTER", "GETKEYSINSLOT", slot, min(100, most - moved))
            if not keys:
                break
            await source.run("MIGRATE", target.host, target.port, "", 0, 5000, *target.login, "KEYS", *keys)
            moved += len(keys)
        return moved

    async def end_move(self, partition: int, source: Member, target: Member) -> None:
        slot = key_slot(b"%d" % partition)
        target_id = (await target.run("CLUSTER", "MYID")).decode()
        for member in (target, source):
            await member.run("CLUSTER", "SETSLOT", slot, "NODE", target_id)


class OwnMember(Member):
    """A node that the test has started."""

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server.port, server.password, server.host)
        self.server = server
        self.process = ServerProcess(server, folder)

    def stop(self) -> None:
        """Freeze the process: it holds its connections and answers nothing."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


class Place(NamedTuple):
    """Where a node runs."""

    host: str = LOOPBACK
    inside: tuple[str, ...] = ()
    """The beginning of a command line that runs the rest of it in a network namespace."""


class ValkeyCluster(Nodes[OwnMember]):
    """A cluster of a test's own."""

    def __init__(
        self,
        folder: Path,
        places: Sequence[Place] = (Place(),) * (2 * PRIMARIES),
        durability: Durability = "process",
        password: str | None = None,
    ) -> None:
        """places: of the primaries, then of their replicas."""
        data = DataDir(folder)
        members: list[OwnMember] = []
        for number, place in enumerate(places, 1):
            log = folder / str(number)
            log.mkdir()
            ports = choose_port(0, None), choose_port(0, None)
            server = cluster.node(data, number, *ports, durability, NODE_TIMEOUT_MS, password, place.host)
            members.append(OwnMember(replace(server, command=[*place.inside, *server.command]), log))
        super().__init__(members)
        self.url = cluster.url_of([member.server for member in members])

    async def start(self) -> None:
        for member in self.members:
            member.process.launch()
        for member in self.members:
            member.process.wait()
        await cluster.form([member.server for member in self.members])

    def kill(self) -> None:
        for member in self.members:
            member.process.kill()


@contextmanager
def valkey_cluster(**options: Any) -> Generator[ValkeyCluster]:
    """Run a cluster for the length of the `with` block. Other processes may take its ports: then try again.

    `options`: see ValkeyCluster.
    """
    for attempt in range(1, TRIES + 1):
        with tempfile.TemporaryDirectory(prefix="penstock-test-", ignore_cleanup_errors=True) as name:
            nodes = ValkeyCluster(Path(name), **options)
            try:
                try:
                    asyncio.run(nodes.start())
                except (RuntimeError, Problem):
                    if attempt == TRIES:
                        raise
                    continue
                yield nodes
            finally:
                nodes.kill()
            return
