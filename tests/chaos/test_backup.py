"""A backup of a Penstock that is at work, restored into new servers after the old ones are destroyed."""

import asyncio
import json
import stat
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from nats.js.errors import NotFoundError
from redis.asyncio import Redis

import commands
from penstock import audit
from penstock.backup import BackupError, back_up, restore
from penstock.bus import connection, streams, trimming
from penstock.ids import partition_for
from penstock.worker import Worker
from running_penstock import RunningPenstock, fence
from servers import NatsServer, ValkeyServer
from trail import emptied
from valkey_cluster import Place, ValkeyCluster

WAITPOINTS = 4
VOTES = 1000
"""More votes than a test gives: the executions that count them wait until the end."""

worker = Worker("nats://nowhere", ["default"], 8, lease_ttl=2.0)


@worker.handler("test.job")
async def job() -> int:
    await asyncio.sleep(0.02)
    return 1


class Servers(NamedTuple):
    """A NATS, and a Valkey that is one server or a cluster."""

    nats: NatsServer
    valkey: ValkeyServer | ValkeyCluster


@asynccontextmanager
async def servers(folder: Path, primaries: int = 1) -> AsyncIterator[Servers]:
    """primaries: of a Valkey Cluster, each with a replica; 1: one Valkey that is no cluster."""
    for name in ("nats", "valkey"):
        (folder / name).mkdir(parents=True)
    nats = NatsServer(folder / "nats")
    try:
        nats.start()
        if primaries > 1:
            valkey = ValkeyCluster(folder / "valkey", (Place(),) * (2 * primaries))
            try:
                await valkey.start()
                yield Servers(nats, valkey)
            finally:
                valkey.kill()
        else:
            valkey = ValkeyServer(folder / "valkey")
            try:
                valkey.start()
                yield Servers(nats, valkey)
            finally:
                valkey.kill()
    finally:
        nats.kill()


async def copy(penstock: RunningPenstock, folder: Path) -> Any:
    return await back_up(
        folder,
        penstock.nats,
        penstock.settings.valkey_url,
        penstock.root,
        pause_ms=10_000,
        tell=lambda _: None,
    )


async def bring_back(folder: Path, both: Servers) -> None:
    nats = await connection.connect(both.nats.url, "restore")
    try:
        await restore(folder, nats, both.valkey.url, lambda _: None)
    finally:
        await nats.close()


async def waiting_for_votes(penstock: RunningPenstock) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _ in range(WAITPOINTS):
        await penstock.create(lane="votes", kind="test.votes", max_reclaims=1000)
        task = (await penstock.take(1, start=True, lanes=["votes"]))[0]
        condition = {"count": VOTES, "of": [{"name": "vote"}]}
        waitpoint = await penstock.request("lease.suspend", fence(task) | {"condition": condition})
        found.append(waitpoint | {"execution_id": task["execution_id"]})
    return found


async def received(penstock: RunningPenstock, waitpoint: dict[str, Any]) -> int:
    got = await penstock.request("waitpoint.get", {"waitpoint_id": waitpoint["waitpoint_id"]})
    return got["received"].get("vote", 0)


class Load:
    """Submits executions and publishes votes, and notes what was acknowledged."""

    def __init__(self, penstock: RunningPenstock, waitpoints: list[dict[str, Any]]) -> None:
        self.created: list[str] = []
        self.votes: Counter[str] = Counter()
        self.over = False
        self._penstock = penstock
        self._waitpoints = waitpoints

    async def submit(self) -> None:
        while not self.over:
            key = f"k{len(self.created)}"
            self.created.append(await self._penstock.create(idempotency_key=key, retention_ms=600_000))
            await asyncio.sleep(0.002)

    async def vote(self) -> None:
        # Without Nats-Msg-Id: the message's sequence in the stream is then its id.
        while not self.over:
            for each in self._waitpoints:
                await vote(self._penstock, each)
                self.votes[each["waitpoint_id"]] += 1
            await asyncio.sleep(0.01)

    async def past(self, created: int, votes: int) -> None:
        async def done() -> bool:
            return len(self.created) >= created and min(self.votes.values(), default=0) >= votes

        await self._penstock.until(done, bool, "some load")


async def vote(penstock: RunningPenstock, waitpoint: dict[str, Any]) -> None:
    subject = f"{penstock.root}.signal.{waitpoint['waitpoint_id']}.vote"
    await penstock.js.publish(subject, b"1", headers={"Penstock-Token": waitpoint["token"]})


@asynccontextmanager
async def running(load: Load, *loops: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    tasks = asyncio.gather(*(loop() for loop in loops))
    try:
        yield
    finally:
        load.over = True
        await tasks


async def trail(penstock: RunningPenstock) -> list[audit.Event]:
    stream = streams.stream_name(penstock.root, streams.AUDIT)
    last = (await penstock.js.stream_info(stream)).state.last_seq
    pages = audit.pages(penstock.nats, stream, 1, last)
    return [audit.decode(body) async for page in pages for _, body in page]


async def whole_trail(penstock: RunningPenstock) -> Counter[tuple[str, str]]:
    """Verify the trail, and count its events by id and name."""
    last = await penstock.create(kind="test.last", lane="last")
    events = await penstock.until(
        lambda: trail(penstock), lambda seen: any(event.id == last for event in seen), "the whole trail"
    )
    report = await audit.verify(penstock.nats, streams.stream_name(penstock.root, streams.AUDIT))
    assert report.ok and report.rewinds == 0, report.sentence()
    return Counter((event.id, event.event) for event in events)


async def votes_count_once(
    penstock: RunningPenstock, waitpoints: list[dict[str, Any]], least: Counter[str]
) -> None:
    """Check that each vote that was published before the backup counted, and new ones count too, each once."""
    await emptied(penstock, streams.SIGNALS)
    for waitpoint in waitpoints:
        id = waitpoint["waitpoint_id"]
        there = await received(penstock, waitpoint)
        assert there >= least[id]
        for _ in range(5):
            await vote(penstock, waitpoint)
        await emptied(penstock, streams.SIGNALS)
        assert await received(penstock, waitpoint) == there + 5
    events = await whole_trail(penstock)
    for waitpoint in waitpoints:
        id = waitpoint["waitpoint_id"]
        assert events[id, "signal_recorded"] == await received(penstock, waitpoint)


@pytest.mark.parametrize("primaries", [(1, 1), (3, 2)], ids=["one-server", "cluster"])
async def test_a_penstock_at_work_is_backed_up_and_goes_on_elsewhere(
    tmp_path: Path, primaries: tuple[int, int]
):
    """primaries: of the old Valkey, and of the new one."""
    folder, partitions = tmp_path / "backup", 3 if primaries == (1, 1) else 12
    async with servers(tmp_path / "old", primaries[0]) as old:  # noqa: SIM117 - the servers outlive the services
        async with RunningPenstock.open(old.nats.url, old.valkey.url, partitions=partitions) as penstock:
            root = penstock.root
            waitpoints = await waiting_for_votes(penstock)
            await penstock.run_worker(worker)
            load = Load(penstock, waitpoints)
            async with running(load, load.submit, load.vote):
                await load.past(100, 20)
                created, votes = [*load.created], load.votes.copy()
                taken = await copy(penstock, folder)
                await load.past(len(load.created) + 20, 0)  # work of after the point in time
            assert taken.keys > 0 and taken.stood_still_ms < 10_000
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    async with servers(tmp_path / "new", primaries[1]) as new:
        await bring_back(folder, new)
        settings = {"partitions": partitions, "root": root}
        async with RunningPenstock.open(new.nats.url, new.valkey.url, **settings) as penstock:
            for key, execution_id in enumerate(created):
                again = {"kind": "test.job", "idempotency_key": f"k{key}", "retention_ms": 600_000}
                assert (await penstock.request("execution.create", again))["execution_id"] == execution_id
            await penstock.run_worker(worker)
            for execution_id in created:
                await penstock.reaches(execution_id, "completed")
            await votes_count_once(penstock, waitpoints, votes)
            events = await whole_trail(penstock)
            for (id, name), count in events.items():
                if name in ("created", "completed"):
                    assert count == 1, (id, name)
            assert all(events[execution_id, "completed"] for execution_id in created)
            one, id = waitpoints[0], waitpoints[0]["execution_id"]
            for _ in range(VOTES - 1 - await received(penstock, one)):
                await vote(penstock, one)
            await emptied(penstock, streams.SIGNALS)
            assert (await penstock.get(id))["state"] == "suspended"
            await vote(penstock, one)
            await penstock.reaches(id, "ready")


async def test_what_is_applied_and_still_in_its_stream_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trimming, "EVERY_S", 3600.0)
    folder = tmp_path / "backup"
    async with (
        servers(tmp_path / "old") as old,
        RunningPenstock.open(old.nats.url, old.valkey.url) as penstock,
    ):
        root, stream = penstock.root, streams.stream_name(penstock.root, streams.SIGNALS)
        waitpoints = await waiting_for_votes(penstock)
        for _ in range(5):
            await vote(penstock, waitpoints[0])
        await penstock.until(
            lambda: penstock.js.consumer_info(stream, "signal-router"),
            lambda info: info.ack_floor and info.ack_floor.stream_seq == 5,
            "all votes acknowledged",
        )
        assert (await penstock.js.stream_info(stream)).state.messages == 5
        await copy(penstock, folder)
    async with servers(tmp_path / "new") as new:
        await bring_back(folder, new)
        nats = await connection.connect(new.nats.url, "test")
        state = (await nats.jetstream().stream_info(stream)).state
        assert (state.messages, state.last_seq) == (0, 5)
        await nats.close()
        async with RunningPenstock.open(new.nats.url, new.valkey.url, root=root) as penstock:
            assert await received(penstock, waitpoints[0]) == 5


async def test_what_nobody_has_applied_yet_is_in_the_backup(tmp_path: Path):
    """Votes that wait in the stream, some published before the snapshot and some after it, with gaps between them."""
    folder = tmp_path / "backup"
    async with servers(tmp_path / "old") as old:
        async with RunningPenstock.open(old.nats.url, old.valkey.url) as penstock:
            root = penstock.root
            waitpoints = await waiting_for_votes(penstock)
            load = Load(penstock, waitpoints)
            async with running(load, load.vote):
                await load.past(0, 5)
                await penstock.services["signal-router"].stop()
                await load.past(0, 20)
                stream = streams.stream_name(root, streams.SIGNALS)
                first = (await penstock.js.stream_info(stream)).state.first_seq
                await penstock.js.delete_msg(stream, first + 2)  # as if it had been applied before the others
                least = {id: votes - 3 for id, votes in load.votes.items()}  # three are taken out
                await copy(penstock, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        queue = manifest["streams"][stream]
        assert queue["first_seq"] == first and first + 2 in queue["deleted"]
        # As if these had been applied between the snapshot and the point in time.
        queue["first_seq"] = first + 1
        queue["deleted"].append(first + 4)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    async with servers(tmp_path / "new") as new:
        await bring_back(folder, new)
        nats = await connection.connect(new.nats.url, "test")
        for seq in (first + 2, first + 4):
            with pytest.raises(NotFoundError):
                await nats.jetstream().get_msg(stream, seq)
        assert (await nats.jetstream().stream_info(stream)).state.first_seq == first + 1
        await nats.close()
        async with RunningPenstock.open(new.nats.url, new.valkey.url, root=root) as penstock:
            await votes_count_once(penstock, waitpoints, Counter(least))


async def test_a_restore_is_refused_where_something_is_and_for_a_damaged_backup(tmp_path: Path):
    folder = tmp_path / "backup"
    async with servers(tmp_path / "old") as old:
        async with RunningPenstock.open(old.nats.url, old.valkey.url) as penstock:
            await penstock.create()
            client: Any = Redis.from_url(old.valkey.url)
            await client.set(f"{penstock.root}:{{0}}:short", "1", px=600_000)
            await client.set("another:{0}:x", "1")
            told = {**commands.told(penstock), "PENSTOCK_VALKEY_URL": old.valkey.url}
            said = await commands.penstock("backup", str(folder), "--json", **told)
            assert said.code == 0, said.err
            assert said.json["stood_still_ms"] < 5000
            with pytest.raises(BackupError, match="is not empty"):
                await copy(penstock, folder)
            with pytest.raises(BackupError, match="services run here"):
                await bring_back(folder, old)
        # The test's Penstock has removed its streams when it ended, as an operator may.
        with pytest.raises(BackupError, match="Valkey has keys under the root"):
            await bring_back(folder, old)
        await client.flushall()
        nats = await connection.connect(old.nats.url, "test")
        await streams.ensure(nats.jetstream(), penstock.root)
        with pytest.raises(BackupError, match="exists already"):
            await bring_back(folder, old)
        for config in streams.definitions(penstock.root):
            await nats.jetstream().delete_stream(str(config.name))

        keys = (folder / "valkey.keys").read_bytes()
        (folder / "valkey.keys").write_bytes(keys[:-1] + bytes([keys[-1] ^ 1]))
        with pytest.raises(BackupError, match="is damaged"):
            await bring_back(folder, old)
        (folder / "valkey.keys").write_bytes(keys)
        said = await commands.penstock("restore", str(folder), "--nodes", "3")
        assert (said.code, "--data" in said.err) == (2, True)
        with pytest.raises(BackupError, match="is of the root"):
            await restore(folder, nats, old.valkey.url, lambda _: None, "other")

        # A restore that breaks off leaves nothing behind.
        await client.config_set("maxmemory", "1")
        with pytest.raises(BackupError, match="RESTORE"):
            await bring_back(folder, old)
        await client.config_set("maxmemory", "0")
        assert await client.dbsize() == 0
        assert (await nats.jetstream().account_info()).streams == 0

        await bring_back(folder, old)
        assert 0 < await client.pttl(f"{penstock.root}:{{0}}:short") <= 600_000
        assert await client.exists("another:{0}:x") == 0
        await nats.close()
        await client.aclose()


async def test_a_slot_that_moves_while_a_cluster_is_copied_fails_the_backup(tmp_path: Path):
    folder = tmp_path / "backup"
    async with servers(tmp_path / "old", 3) as old:
        nodes = old.valkey
        assert isinstance(nodes, ValkeyCluster)
        async with RunningPenstock.open(old.nats.url, nodes.url, partitions=12) as penstock:
            await penstock.create()
            source = await nodes.home(5)
            target = next(each for each in nodes.members[:3] if each is not source)
            await nodes.begin_move(5, source, target)
            with pytest.raises(BackupError, match="changed during the backup"):
                await copy(penstock, folder)
            assert list(folder.iterdir()) == []
            # Writes go on, but for those of the partition that is half moved.
            keys = (f"key-{n}" for n in range(100))
            elsewhere = next(key for key in keys if partition_for(f"default:{key}", 12) != 5)
            await penstock.create(idempotency_key=elsewhere)
            await nodes.move_keys(5, source, target)
            await nodes.end_move(5, source, target)
            await nodes.until_home_is(5, target)
            await copy(penstock, folder)
