"""Looks: one call reads all partitions of a server. And what a store knows of its server without asking it."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex

import msgspec
import pytest

from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops.common import NextDue
from penstock.machine.ops.scheduler import Create, Lanes
from penstock.machine.replies import inside
from served import DEADLINE_S, until
from servers import ValkeyServer

PARTITIONS = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path)
    server.start()
    yield server
    server.kill()


@asynccontextmanager
async def connected(server: ValkeyServer) -> AsyncIterator[Machine]:
    machine = await Machine.connect(
        server.url, service="scheduler", partitions=PARTITIONS, root=f"t{token_hex(5)}", dev=True
    )
    try:
        yield machine
    finally:
        machine.store.disconnect()


async def create(machine: Machine, partition: int, lane: str, **spec: object) -> None:
    body = {
        "id": machine.new_id(partition),
        "namespace": "default",
        "spec": {"kind": "t", "lane": lane, **spec},
    }
    await machine.run(msgspec.convert(body, inside(Create)))


async def fcalls(machine: Machine) -> int:
    stats = str(await machine.store.execute("INFO", "commandstats"))
    return int(stats.partition("cmdstat_fcall:calls=")[2].partition(",")[0])


async def test_one_call_tells_what_is_due_in_every_partition(server: ValkeyServer) -> None:
    async with connected(server) as machine:
        soon = int(machine.clock.now()) + 60_000
        await create(machine, 5, "a", run_at=soon)
        before = await fcalls(machine)
        found = await machine.glance(NextDue())
        assert await fcalls(machine) == before + 1
        assert [each.next_at for each in found] == [soon if p == 5 else None for p in range(PARTITIONS)]


async def test_a_look_that_finds_much_is_several_calls(server: ValkeyServer) -> None:
    async with connected(server) as machine:
        lanes = [f"{i:03}{'x' * 50}" for i in range(20)]
        await asyncio.gather(*(create(machine, p, lane) for p in range(PARTITIONS) for lane in lanes))
        before = await fcalls(machine)
        found = await machine.glance(Lanes(limit=100))
        assert 1 < await fcalls(machine) - before <= PARTITIONS
        assert [[each.lane for each in here.items] for here in found] == [lanes] * PARTITIONS


async def test_what_a_look_cannot_answer_is_asked_the_ordinary_way(server: ValkeyServer) -> None:
    async with connected(server) as machine:
        await machine.store.execute("SET", f"{machine.store.root}:{{3}}:due:scheduler:x", "no sorted set")
        found = await machine.look([NextDue()] * PARTITIONS, range(PARTITIONS))
        assert [p for p, each in enumerate(found) if isinstance(each, PenstockError)] == [3]
        server.kill()
        with pytest.raises(PenstockError, match="Valkey is away"):
            await machine.glance(NextDue())


async def test_a_server_that_answers_need_not_be_asked_whether_it_does(server: ValkeyServer) -> None:
    async with connected(server) as machine:
        await machine.ping()
        assert machine.store.heard_s() < DEADLINE_S
        server.kill()
        await until(lambda: machine.store.heard_s() == math.inf)


async def test_a_call_that_waits_shows_that_the_server_is_late(server: ValkeyServer) -> None:
    async with connected(server) as machine:
        await machine.ping()
        server.freeze()
        try:
            waiting = asyncio.create_task(machine.ping())
            await until(lambda: machine.store.heard_s() == math.inf)
        finally:
            server.thaw()
        await waiting
        assert machine.store.heard_s() < DEADLINE_S
