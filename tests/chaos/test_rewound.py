"""Valkey falls behind the audit trail: a lagging replica is promoted, or an old copy of its data comes back."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from commands import penstock as command
from commands import told
from penstock import audit
from penstock.bus import streams
from proxies import Proxy
from running_penstock import RunningPenstock, fence
from servers import NatsServer, ValkeyServer


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    (tmp_path / "nats").mkdir()
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.kill()


def valkey_in(folder: Path) -> ValkeyServer:
    folder.mkdir()
    server = ValkeyServer(folder)
    server.start()
    return server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = valkey_in(tmp_path / "valkey")
    yield server
    server.kill()


@pytest.fixture
async def house(nats: NatsServer, valkey: ValkeyServer) -> AsyncIterator[RunningPenstock]:
    async with RunningPenstock.open(nats.url, valkey.url) as penstock:
        yield penstock


async def trail(penstock: RunningPenstock) -> list[audit.Event]:
    stream = streams.stream_name(penstock.root, streams.AUDIT)
    last = (await penstock.js.stream_info(stream)).state.last_seq
    return [
        audit.decode(body) async for page in audit.pages(penstock.nats, stream, 1, last) for _, body in page
    ]


async def in_trail(penstock: RunningPenstock, id: str, event: str, times: int = 1) -> list[audit.Event]:
    """Wait until the trail has this event so many times. Return the whole trail."""
    return await penstock.until(
        lambda: trail(penstock),
        lambda events: sum((each.id, each.event) == (id, event) for each in events) >= times,
        f"{event} of {id} in the trail",
    )


async def complete(penstock: RunningPenstock) -> str:
    task = await penstock.begin()
    await penstock.request("lease.complete", {**fence(task), "result": 1})
    return task["execution_id"]


async def answers(penstock: RunningPenstock) -> bool:
    return all(not running.health.missing() for running in penstock.services.values())


async def lose(penstock: RunningPenstock) -> tuple[str, str]:
    """Complete an execution that there is, and one made now. Return their ids once their events are in the trail."""
    old = await complete(penstock)
    new = await penstock.create()
    assert await complete(penstock) == new
    await in_trail(penstock, new, "completed")
    return old, new


async def check(penstock: RunningPenstock, old: str, new: str) -> None:
    """Check that the loss of all that `lose` did is told, and that everything goes on."""
    relay = penstock.services["audit-relay"]
    another = await penstock.create()
    await in_trail(penstock, another, "created")
    assert {await complete(penstock), await complete(penstock)} == {old, another}
    events = await in_trail(penstock, another, "completed")
    events = await in_trail(penstock, old, "completed", times=2)

    [rewound] = [event for event in events if event.event == "state_rewound"]
    assert (rewound.entity, rewound.actor, rewound.seq) == ("partition", "audit-relay", 1)
    lost = [
        event.event_id
        for event in events[rewound.data["from_seq"] - 1 : rewound.data["to_seq"]]
        if event.entity == "execution"
    ]
    assert {event.rpartition(":")[0] for event in lost} == {old, new}
    assert (rewound.data["executions"], rewound.data["whole"]) == (2, True)
    assert sum((each.id, each.event) == (new, "created") for each in events) == 1

    report = await audit.verify(penstock.nats, streams.stream_name(penstock.root, streams.AUDIT))
    assert report.ok and report.rewinds == 1, report.sentence()
    assert 'penstock_state_rewound_total{component="audit-relay"} 1.0' in relay.metrics.exposition().decode()


async def check_commands(penstock: RunningPenstock, old: str, new: str) -> None:
    said = await command("audit", "rewound", "--json", **told(penstock))
    [item] = said.json["items"]
    affected = {each["id"]: each for each in item["affected"] if each["entity"] == "execution"}
    assert affected.keys() == {old, new}
    assert (affected[old]["trail"], affected[old]["state"]) == ("completed", "completed")
    assert (affected[new]["trail"], affected[new]["state"]) == ("completed", None)
    assert affected[new]["lost"][0] == "created" and affected[new]["lost"][-1] == "completed"
    doctor = await command("doctor", "--json", **told(penstock))
    checks = {each["name"]: each for each in doctor.json["checks"]}
    assert checks["state rewound"]["ok"] is False and "rewound" in checks["state rewound"]["advice"]


async def test_an_old_copy_of_the_data_comes_back_under_running_services(
    house: RunningPenstock, valkey: ValkeyServer, tmp_path: Path
):
    before = await house.create()
    await in_trail(house, before, "created")
    valkey.stop()
    shutil.copytree(tmp_path / "valkey", tmp_path / "copy")
    valkey.start()
    await house.until(lambda: answers(house), bool, "ready services")
    old, new = await lose(house)
    assert old == before
    valkey.kill()
    shutil.rmtree(tmp_path / "valkey")
    shutil.copytree(tmp_path / "copy", tmp_path / "valkey")
    valkey.start()
    await house.until(lambda: answers(house), bool, "ready services")
    await check(house, old, new)
    await check_commands(house, old, new)


async def test_a_replica_that_lagged_is_promoted(nats: NatsServer, valkey: ValkeyServer, tmp_path: Path):
    replica = valkey_in(tmp_path / "replica")
    client: Any = Redis.from_url(replica.url)
    primary: Any = Redis.from_url(valkey.url)
    try:
        async with (
            Proxy.before(valkey.url) as link,
            Proxy.before(valkey.url) as proxy,
            RunningPenstock.open(nats.url, proxy.url) as penstock,
        ):
            await client.execute_command("REPLICAOF", "127.0.0.1", link.url.rpartition(":")[2])
            await in_trail(penstock, await penstock.create(), "created")
            await penstock.until(lambda: primary.execute_command("WAIT", 1, 100), bool, "a replica")
            link.sever()  # from here on the replica hears nothing
            old, new = await lose(penstock)
            valkey.kill()
            await client.execute_command("REPLICAOF", "NO", "ONE")
            proxy.lead_to(replica.url)
            await penstock.until(lambda: answers(penstock), bool, "ready services")
            await check(penstock, old, new)
    finally:
        replica.kill()
        await primary.aclose()
        await client.aclose()


async def test_an_emptied_valkey_is_noticed_and_new_work_is_told(
    house: RunningPenstock, valkey: ValkeyServer
):
    gone = await house.create()
    await in_trail(house, gone, "created")
    client: Any = Redis.from_url(valkey.url)
    await client.flushall()
    await client.aclose()
    new = await house.create()
    events = await in_trail(house, new, "created")
    [rewound] = [event for event in events if event.event == "state_rewound"]
    assert (rewound.to, rewound.data["events"]) == ("0-0", 1)
    report = await audit.verify(house.nats, streams.stream_name(house.root, streams.AUDIT))
    assert report.ok, report.sentence()


async def test_what_both_have_is_not_told_twice_and_new_entries_with_low_ids_are_told(
    nats: NatsServer, valkey: ValkeyServer, tmp_path: Path
):
    """The old copy holds entries that wait, and its clock is behind: new entries have ids like lost ones."""

    def blob(entity: str, *seqs: int) -> bytes:
        items: list[Any] = []
        for seq in seqs:
            items += [["execution", "default", entity], [seq, "leased", 5, "w", "", "", "", ""]]
        return msgspec.msgpack.encode(items)

    one, two, three = (f"0-0000000{n}-0000-7000-8000-000000000000" for n in range(3))
    async with RunningPenstock.open(nats.url, valkey.url) as house:
        outbox = f"{house.root}:{{0}}:outbox"

        async def add(id: str, entity: str, *seqs: int) -> None:
            client: Any = Redis.from_url(valkey.url)
            await client.xadd(outbox, {"e": blob(entity, *seqs)}, id=id)
            await client.aclose()

        await add("10-0", one, 1)
        await in_trail(house, one, "leased")
        await house.services["audit-relay"].stop()
        await add("20-0", one, 2, 3)  # it waits when the copy is made
        valkey.stop()
        shutil.copytree(tmp_path / "valkey", tmp_path / "copy")
        valkey.start()
        await add("30-0", two, 1, 2)
        await house.start_service("audit-relay")
        await in_trail(house, two, "leased", times=2)
        valkey.kill()
        shutil.rmtree(tmp_path / "valkey")
        shutil.copytree(tmp_path / "copy", tmp_path / "valkey")
        valkey.start()
        await add("25-0", three, 1)
        await add("40-0", one, 4)
        events = await in_trail(house, one, "leased", times=4)
        told_of = [(event.id, event.seq) for event in events if event.event == "leased"]
        assert told_of == [(one, 1), (one, 2), (one, 3), (two, 1), (two, 2), (three, 1), (one, 4)]
        [rewound] = [event for event in events if event.event == "state_rewound"]
        assert (rewound.from_, rewound.to, rewound.data["events"]) == ("30-0", "20-0", 2)
        await house.services["audit-relay"].stop()
        await house.start_service("audit-relay")  # a relay that starts later finds nothing to tell
        await add("50-0", one, 5)
        events = await in_trail(house, one, "leased", times=5)
        assert sum(event.event == "state_rewound" for event in events) == 1
        report = await audit.verify(house.nats, streams.stream_name(house.root, streams.AUDIT))
        assert report.ok, report.sentence()
