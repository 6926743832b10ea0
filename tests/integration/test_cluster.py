"""The store on a Valkey Cluster: partitions are found wherever they are, and calls that were not run are sent again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

import msgspec
import pytest

from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops.common import NextDue, Ping
from penstock.machine.ops.scheduler import Create, Get
from penstock.machine.replies import inside
from penstock.store import UrlError
from penstock.store.servers import HOLD_S
from servers import valkey_server
from valkey_cluster import DEADLINE_S, Member, ValkeyCluster, valkey_cluster

PARTITIONS = 12


@pytest.fixture(scope="module")
def nodes() -> Iterator[ValkeyCluster]:
    """A cluster that the tests of this module leave whole, though perhaps with other primaries."""
    with valkey_cluster() as nodes:
        yield nodes


@pytest.fixture
async def machine(nodes: ValkeyCluster) -> AsyncIterator[Machine]:
    async with connected(nodes) as machine:
        yield machine


@asynccontextmanager
async def connected(nodes: ValkeyCluster, **options: Any) -> AsyncIterator[Machine]:
    given: dict[str, Any] = {"service": "scheduler", "partitions": PARTITIONS, "dev": True, **options}
    machine = await Machine.connect(nodes.url, root=f"t{token_hex(5)}", **given)
    try:
        yield machine
    finally:
        await machine.close()


def creation(new: str) -> Create:
    return msgspec.convert({"id": new, "namespace": "default", "spec": {"kind": "t"}}, inside(Create))


class Load:
    """Creates executions in every partition without end. What was answered must be there afterwards."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.created: list[list[str]] = [[] for _ in range(PARTITIONS)]
        self.errors: list[tuple[int, str]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._create_in(partition)) for partition in range(PARTITIONS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def goes_on(self, *partitions: int) -> None:
        """Wait until each partition (default: all) has taken ten more executions."""
        wanted = {each: len(self.created[each]) + 10 for each in partitions or range(PARTITIONS)}
        async with asyncio.timeout(DEADLINE_S):
            while any(  # noqa: ASYNC110
                len(self.created[each]) < count for each, count in wanted.items()
            ):
                await asyncio.sleep(0.01)

    async def check(self) -> None:
        for ids in self.created:
            for record in await self.machine.all_of([Get(execution_id=each) for each in ids]):
                assert record.state == "ready"

    async def _create_in(self, partition: int) -> None:
        while True:
            new = self.machine.new_id(partition)
            try:
                await self.machine.run(creation(new))
                self.created[partition].append(new)
            except PenstockError as error:
                self.errors.append((partition, str(error)))
                await asyncio.sleep(0.02)


async def at_home(nodes: ValkeyCluster, home: Member) -> list[int]:
    return [each for each in range(PARTITIONS) if await nodes.home(each, home) is home]


async def test_each_primary_runs_the_calls_of_its_partitions(nodes: ValkeyCluster, machine: Machine) -> None:
    homes = {(await nodes.home(partition)).port for partition in range(PARTITIONS)}
    assert len(homes) == 3
    load = Load(machine)
    async with load.running():
        await load.goes_on()
    assert load.errors == []
    await load.check()
    for port in homes:
        keys = await nodes.on(port).run("KEYS", f"{machine.store.root}:*:all")
        assert keys, "this primary got no calls"


async def test_a_look_is_one_call_to_each_primary(machine: Machine) -> None:
    async def calls() -> list[int]:
        stats = map(str, await machine.store.execute_everywhere("INFO", "commandstats"))
        return [int(text.partition("cmdstat_fcall:calls=")[2].partition(",")[0] or 0) for text in stats]

    before = await calls()
    assert [each.next_at for each in await machine.glance(NextDue())] == [None] * PARTITIONS
    assert [after - count for after, count in zip(await calls(), before, strict=True)] == [1] * len(before)


async def test_plain_commands_go_where_their_key_is(machine: Machine) -> None:
    for partition in range(PARTITIONS):
        key = f"{machine.store.root}:{{{partition}}}:x"
        await machine.store.execute("SET", key, partition)
        assert await machine.store.execute("GET", key) == b"%d" % partition
    found = await machine.store.execute_everywhere("KEYS", f"{machine.store.root}:*:x")
    assert sum(map(len, found)) == PARTITIONS
    assert all(found)


async def test_a_primary_that_lost_the_library_is_given_it_again(
    nodes: ValkeyCluster, machine: Machine
) -> None:
    await (await nodes.home(3)).run("FUNCTION", "FLUSH")
    assert len(await machine.everywhere(Ping())) == PARTITIONS


async def test_one_living_node_is_enough_to_begin_with(nodes: ValkeyCluster) -> None:
    url = f"valkey+cluster://127.0.0.1:1,127.0.0.1:{nodes.members[0].port}"
    machine = await Machine.connect(
        url, service="scheduler", partitions=PARTITIONS, root=f"t{token_hex(5)}", dev=True
    )
    assert len(await machine.everywhere(Ping())) == PARTITIONS
    await machine.close()


async def test_without_a_living_node_calls_are_refused(nodes: ValkeyCluster) -> None:
    with pytest.raises(PenstockError) as refusal:
        await Machine.connect("redis+cluster://127.0.0.1:1,127.0.0.1:2", service="scheduler")
    assert refusal.value.code == "valkey_unavailable"


async def test_a_server_that_is_in_no_cluster_is_refused() -> None:
    with valkey_server() as url, pytest.raises(UrlError, match="is no node of a cluster: name it redis://"):
        await Machine.connect(url.replace("redis", "redis+cluster", 1), service="scheduler")


class TestMovedSlots:
    async def test_calls_wait_while_a_slot_is_moved(
        self, nodes: ValkeyCluster, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No call runs while the keys of its partition are on two servers, and none is refused or lost."""
        monkeypatch.setattr("penstock.store.servers.HOLD_S", 20.0)  # the move may take long on a busy machine
        partition = 3
        source = await nodes.home(partition)
        target = await nodes.home(0)
        assert source is not target
        load = Load(machine)
        async with load.running():
            await load.goes_on()
            await nodes.begin_move(partition, source, target)
            assert await nodes.move_keys(partition, source, target, most=5) == 5
            waiting = asyncio.create_task(machine.run(Ping(), at=partition))
            await load.goes_on(0)
            assert not waiting.done()
            await nodes.move_keys(partition, source, target)
            await nodes.end_move(partition, source, target)
            await load.goes_on()
            await waiting
        assert load.errors == []
        await load.check()

    async def test_a_move_that_takes_long_refuses_calls(self, nodes: ValkeyCluster, machine: Machine) -> None:
        partition = 7
        source = await nodes.home(partition)
        target = await nodes.home(0)
        assert source is not target
        await machine.run(Ping(), at=partition)
        await nodes.begin_move(partition, source, target)
        started = asyncio.get_running_loop().time()
        with pytest.raises(PenstockError) as refusal:
            await machine.run(Ping(), at=partition)
        assert refusal.value.code == "valkey_unavailable"
        assert HOLD_S <= asyncio.get_running_loop().time() - started < HOLD_S + 8
        await nodes.move_keys(partition, source, target)
        await nodes.end_move(partition, source, target)
        await until_answered(lambda: machine.run(Ping(), at=partition))


async def until_answered(call: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await call()
            except PenstockError as error:
                assert error.code == "valkey_unavailable"
                await asyncio.sleep(0.02)


class TestFailover:
    async def test_an_orderly_one_is_not_noticed(self, nodes: ValkeyCluster, machine: Machine) -> None:
        primary = await nodes.home(0)
        replica = await nodes.replica_of(primary)
        load = Load(machine)
        async with load.running():
            await load.goes_on()
            await replica.run("CLUSTER", "FAILOVER")
            await nodes.until_home_is(0, replica)
            await load.goes_on()
        assert load.errors == []
        await load.check()

    async def test_a_killed_primary(self, nodes: ValkeyCluster) -> None:
        """What was acknowledged is on the replica that takes over; partitions of other primaries go on.

        The new primary has no replica until the old one is back. So long, its calls are run, but not acknowledged.
        """
        async with connected(nodes, acknowledged="replicas:1") as machine:
            primary = await nodes.home(0)
            replica = await nodes.replica_of(primary)
            lost = await at_home(nodes, primary)
            others = [each for each in range(PARTITIONS) if each not in lost]
            load = Load(machine)
            async with load.running():
                await load.goes_on()
                primary.process.kill()
                await load.goes_on(*others)
                await nodes.until_home_is(0, replica)
                primary.process.start()
                await load.goes_on(*lost)
            assert {partition for partition, _ in load.errors} <= set(lost)
            await load.check()
        assert await nodes.replica_of(replica) is primary

    async def test_a_frozen_primary(self, nodes: ValkeyCluster) -> None:
        """Calls to a primary that answers nothing fail once it is replaced, long before the store's own timeout."""
        async with connected(nodes, acknowledged="replicas:1") as machine:
            primary = await nodes.home(0)
            replica = await nodes.replica_of(primary)
            load = Load(machine)
            async with load.running():
                await load.goes_on()
                primary.stop()
                failed = len(load.errors)
                try:
                    await nodes.until_home_is(0, replica)
                    async with asyncio.timeout(12):  # the store's own timeout is 15 s
                        while len(load.errors) == failed:  # noqa: ASYNC110
                            await asyncio.sleep(0.01)
                finally:
                    primary.go_on()
                await load.goes_on()
            await load.check()
        assert await nodes.replica_of(replica) is primary


class TestAcknowledged:
    async def test_replicas_that_do_not_answer(self, nodes: ValkeyCluster) -> None:
        """The caller hears that the outcome is unknown, and a reader is not shown what may still be lost."""
        async with connected(nodes, acknowledged="replicas:1") as machine:
            replica = await nodes.replica_of(await nodes.home(0))
            new = machine.new_id(0)
            replica.stop()
            try:
                with pytest.raises(PenstockError) as refusal:
                    await machine.run(creation(new))
                assert refusal.value.code == "valkey_unavailable"
                assert "0 of 1 replicas" in refusal.value.message
                async with connected(nodes, acknowledged="process") as careless:
                    careless.store.root = machine.store.root
                    assert (await careless.run(Get(execution_id=new))).state == "ready"
                with pytest.raises(PenstockError):
                    await machine.run(Get(execution_id=new))
            finally:
                replica.go_on()
            assert (await until_answered(lambda: machine.run(Get(execution_id=new)))).state == "ready"

    async def test_more_replicas_than_there_are(self, nodes: ValkeyCluster) -> None:
        with pytest.raises(PenstockError, match="1 of 2 replicas"):
            async with connected(nodes, acknowledged="replicas:2"):
                pass

    async def test_disk(self, nodes: ValkeyCluster) -> None:
        for member in nodes.members:  # the others of these tests need no disk
            await member.run("CONFIG", "SET", "appendfsync", "always")
        async with connected(nodes, acknowledged="disk") as machine:
            assert len(await machine.everywhere(Ping())) == PARTITIONS
        for member in nodes.members:
            await member.run("CONFIG", "SET", "appendfsync", "no")
