"""A primary whose network is cut for 20 s under load: its replica takes over, and nothing acknowledged is lost."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from namespaces import Namespace, namespace
from penstock import Client
from running_penstock import RunningPenstock
from servers import nats_server
from valkey_cluster import PRIMARIES, Place, ValkeyCluster, valkey_cluster
from waves import all_completed, audit_events, ended, no_overlaps, start_worker, submit_wave

DEADLINE_S = 150.0
CUT_S = 20.0
EVERY_S = 4.0
PARTITIONS = 12
PASSWORD = "secret-of-this-test"


class Network(NamedTuple):
    """Servers, of which the first primary is on a host of its own."""

    host: Namespace
    nodes: ValkeyCluster
    nats_url: str

    @property
    def valkey_url(self) -> str:
        return self.nodes.url.replace("://", f"://:{PASSWORD}@")


@pytest.fixture
def network() -> Iterator[Network]:
    with namespace() as host, nats_server() as nats_url:
        places = [Place(host.there, host.inside), *[Place(host.here)] * (2 * PRIMARIES - 1)]
        with valkey_cluster(places=places, durability="disk", password=PASSWORD) as nodes:
            yield Network(host, nodes, nats_url)


async def test_nothing_acknowledged_is_lost(network: Network, tmp_path: Path) -> None:
    """The primary that is cut off goes on alone, and loses what it took in then: none of it was acknowledged."""
    deadline = time.monotonic() + DEADLINE_S
    log = tmp_path / "handlers.log"
    settings = {"root": "penstock", "partitions": PARTITIONS, "acknowledged": "replicas:1"}
    async with (
        RunningPenstock.open(network.nats_url, network.valkey_url, **settings),
        await Client.connect(network.nats_url) as client,
    ):
        worker = await start_worker(network.nats_url, LOAD_LOG=str(log))
        try:
            ids = await submit_wave(client, 0, deadline)
            cut_off = network.nodes.members[0]
            replica = await network.nodes.replica_of(cut_off)
            network.host.cut()
            waves: list[asyncio.Task[list[str]]] = []
            for number in range(1, round(CUT_S / EVERY_S) + 1):
                waves.append(asyncio.create_task(submit_wave(client, number, deadline)))
                await asyncio.sleep(EVERY_S)
            network.host.join()
            ids += [execution_id for wave in await asyncio.gather(*waves) for execution_id in wave]
            records = await ended(client, ids, deadline)
        finally:
            worker.terminate()
            await worker.wait()
        assert await network.nodes.replica_of(replica) is cut_off
        all_completed(records, await audit_events(network.nats_url, set(ids)))
    no_overlaps(log)
