"""Harm done to the clusters of `penstock up --nodes 3` under load: nothing acknowledged is lost, all ends once."""

import asyncio
import os
import signal
import time
from pathlib import Path

import commands
from commands import BARE, Up
from penstock import Client
from valkey_cluster import Member, Nodes
from waves import all_completed, audit_events, ended, no_overlaps, start_worker, submit_wave

DEADLINE_S = 150.0
PAUSE_S = 0.5
"""Seconds of load before each harm."""


class Harm:
    """What is done to a running `penstock up --nodes 3`."""

    def __init__(self, up: Up) -> None:
        self._up = up
        ports = up.facts["valkey_url"].rpartition("/")[2].split(",")
        password = Path(up.facts["valkey_password_file"]).read_text().strip()
        self.nodes = Nodes([Member(int(each.rpartition(":")[2]), password) for each in ports])

    def pid_of(self, member: Member) -> int:
        return self._up.facts["server_pids"][f"valkey-{self.nodes.members.index(member) + 1}"]

    async def nats_node_killed(self) -> None:
        commands.kill(self._up.facts["server_pids"]["nats-2"])

    async def primary_frozen_then_killed(self) -> None:
        """Its replica takes over by itself; then it is started again by `penstock up`, and follows."""
        primary = await self.nodes.home(0)
        replica = await self.nodes.replica_of(primary)
        os.kill(self.pid_of(primary), signal.SIGSTOP)
        await self.nodes.until_home_is(0, replica)
        commands.kill(self.pid_of(primary))
        assert await self.nodes.replica_of(replica) is primary

    async def slot_moved(self) -> None:
        witness = self.nodes.members[1]
        for partition in range(1, 12):
            source, target = await self.nodes.home(partition, witness), await self.nodes.home(0, witness)
            if source is not target:
                await self.nodes.begin_move(partition, source, target)
                await self.nodes.move_keys(partition, source, target)
                await self.nodes.end_move(partition, source, target)
                return
        raise AssertionError("one primary has all partitions")

    async def primary_killed_and_replaced(self) -> None:
        """Its replica takes over before `penstock up` has started it again."""
        primary = await self.nodes.home(0, self.nodes.members[1])
        replica = await self.nodes.replica_of(primary)
        commands.kill(self.pid_of(primary))
        await replica.run("CLUSTER", "FAILOVER", "TAKEOVER")
        await self.nodes.until_home_is(0, replica)


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    log = tmp_path / "handlers.log"
    async with Up.open(tmp_path, *BARE, "--nodes", "3", "--durability", "process") as up:
        url, harm = up.facts["nats_url"], Harm(up)
        said = await commands.penstock("doctor", cwd=tmp_path)
        assert said.out.count("primary of slots") == 3, said.out
        workers = [await start_worker(url, LOAD_LOG=str(log)) for _ in range(2)]
        try:
            async with await Client.connect(url) as client:
                waves: list[asyncio.Task[list[str]]] = []
                for harmful in (
                    harm.nats_node_killed,
                    harm.primary_frozen_then_killed,
                    harm.slot_moved,
                    harm.primary_killed_and_replaced,
                ):
                    waves.append(asyncio.create_task(submit_wave(client, len(waves), deadline)))
                    await asyncio.sleep(PAUSE_S)
                    waves.append(asyncio.create_task(submit_wave(client, len(waves), deadline)))
                    await harmful()
                ids = [execution_id for wave in await asyncio.gather(*waves) for execution_id in wave]
                records = await ended(client, ids, deadline)
        finally:
            for worker in workers:
                worker.terminate()
            await asyncio.gather(*(worker.wait() for worker in workers))
        all_completed(records, await audit_events(url, set(ids)))
    no_overlaps(log)
