"""The audit relay on real servers under failures: killed processes, a rival relay, garbage in the outbox."""

import asyncio
import os
import random
import re
import secrets
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import DeliverPolicy

from commands import clean_environment
from penstock import audit
from penstock.bus import connection, streams
from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.runtime import Settings
from penstock.runtime.running import start
from penstock.runtime.service import Context, Service
from penstock_audit_relay import service as relay_service
from servers import NatsServer, ValkeyServer

DEADLINE_S = 60.0
PARTITIONS = 3


class Grounds:
    """One Penstock root on real servers, with outboxes that a test fills."""

    def __init__(
        self, nats: NatsServer, valkey: ValkeyServer, client: Client, machine: Machine, root: str
    ) -> None:
        self.nats = nats
        self.valkey = valkey
        self.client = client
        self.js = client.jetstream()
        self.machine = machine
        self.root = root
        self.stream = streams.stream_name(root, streams.AUDIT)
        self.seqs: defaultdict[str, int] = defaultdict(int)
        self.sent = 0

    def settings(self) -> Settings:
        return Settings(
            nats_url=self.nats.url, valkey_url=self.valkey.url, root=self.root, partitions=PARTITIONS,
            instance=f"relay-{secrets.token_hex(3)}", sweep_ms=200, dev=True,
        )  # fmt: skip

    def key(self, partition: int) -> str:
        return f"{self.root}:{{{partition}}}:outbox"

    async def add(self, partition: int, blob: bytes) -> None:
        await self.machine.store.execute("XADD", self.key(partition), "*", "e", blob)

    def events(self, partition: int, count: int) -> bytes:
        """Make an entry, in the format of lua/core/events.lua, with the next events of random entities."""
        items: list[Any] = []
        for _ in range(count):
            entity = f"{partition}-{random.randrange(20):08x}-0000-7000-8000-000000000000"
            self.seqs[entity] += 1
            event = [
                self.seqs[entity],
                "leased",
                1_790_000_000_000,
                "w",
                "ready",
                "leased",
                "",
                {"n": self.sent},
            ]
            items += [["execution", "default", entity], event]
            self.sent += 1
        return msgspec.msgpack.encode(items)

    async def fill(self, entries: int, most: int = 40) -> None:
        for _ in range(entries):
            partition = random.randrange(PARTITIONS)
            await self.add(partition, self.events(partition, random.randint(1, most)))

    async def answers(self) -> bool:
        await self.machine.ping()
        return True

    async def waiting(self) -> int:
        return sum(
            [
                int(await self.machine.store.execute("XLEN", self.key(partition)))
                for partition in range(PARTITIONS)
            ]
        )

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a condition. An error of an absent server counts as 'does not hold'."""
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        while True:
            try:
                if await holds():
                    return
            except (PenstockError, NatsError, TimeoutError, OSError):
                pass
            assert asyncio.get_running_loop().time() < deadline, f"{what} did not come about"
            await asyncio.sleep(0.02)

    async def relayed(self, events: int) -> bool:
        return (await self.js.stream_info(self.stream)).state.messages >= events

    async def empty(self) -> None:
        async def none_wait() -> bool:
            return await self.waiting() == 0

        await self.until(none_wait, "an empty outbox")

    async def whole(self) -> None:
        """Assert that every written event is in the stream, once, in order, in one hash chain."""
        await self.empty()
        report = await audit.verify(self.client, self.stream)
        assert report.ok, report.sentence()
        assert report.events == self.sent
        last: dict[str, int] = {}
        async for page in audit.pages(self.client, self.stream, 1, report.last_seq):
            for _, body in page:
                event = audit.decode(body)
                last[event.id] = event.seq
        assert last == self.seqs


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[NatsServer, ValkeyServer]]:
    (tmp_path / "nats").mkdir()
    (tmp_path / "valkey").mkdir()
    nats, valkey = NatsServer(tmp_path / "nats"), ValkeyServer(tmp_path / "valkey")
    nats.start()
    valkey.start()
    yield nats, valkey
    nats.kill()
    valkey.kill()


@pytest.fixture
async def grounds(servers: tuple[NatsServer, ValkeyServer]) -> AsyncIterator[Grounds]:
    nats, valkey = servers
    client = await connection.connect(nats.url, "test")
    machine = await Machine.connect(valkey.url, service="audit-relay", dev=True)
    yield Grounds(nats, valkey, client, machine, f"t{secrets.token_hex(4)}")
    await client.close()
    await machine.close()


@asynccontextmanager
async def relaying(
    grounds: Grounds, build: Callable[[Context], Service] = relay_service.build
) -> AsyncIterator[Any]:
    running = await start("audit-relay", build, grounds.settings())
    try:
        yield running
    finally:
        await running.stop()


def leading(context: Context) -> Service:
    """Build a relay that always believes it leads."""
    context.membership.is_leader = lambda: True  # pyright: ignore[reportAttributeAccessIssue]
    return relay_service.build(context)


class Process:
    """A process `python -m penstock_audit_relay` that a test kills."""

    def __init__(self, grounds: Grounds, log: Path) -> None:
        settings = grounds.settings()
        names = ("nats_url", "valkey_url", "root", "partitions", "instance", "sweep_ms")
        own = {f"PENSTOCK_{name.upper()}": str(getattr(settings, name)) for name in names}
        self._env = {
            **clean_environment(),
            **own,
            "PENSTOCK_DEV": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "penstock_audit_relay", env=self._env, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        assert self._process is not None
        assert self._process.returncode is None, f"it ended by itself:\n{self._log.read_text()[-2000:]}"
        self._process.kill()
        await self._process.wait()


async def test_all_that_happens_is_relayed_in_order(grounds: Grounds):
    await grounds.fill(30)
    async with relaying(grounds) as running:
        await grounds.until(lambda: grounds.relayed(grounds.sent), "what was there before")
        await grounds.fill(100, most=400)
        await grounds.whole()
        numbers = running.metrics.exposition().decode()
        relayed = re.findall(r"^penstock_audit_events_total{.*} (\S+)$", numbers, re.MULTILINE)
        assert sum(map(float, relayed)) == grounds.sent
        assert 'penstock_audit_outbox_entries{component="audit-relay"} 0.0' in numbers


async def test_a_live_subscriber_follows_one_id_and_the_stream_stores_few_subjects(grounds: Grounds):
    heard: asyncio.Queue[Any] = asyncio.Queue()
    one = "0-00000001-0000-7000-8000-000000000000"
    await grounds.client.subscribe(f"{grounds.root}.audit.*.*.*.{one}", cb=heard.put)
    await grounds.client.flush()
    items: list[Any] = []
    for entity in (one, one.replace("1", "2")):
        items += [["execution", "default", entity], [1, "created", 5, "", "", "ready", "", ""]]
    await grounds.add(0, msgspec.msgpack.encode(items))
    async with relaying(grounds):
        message = await asyncio.wait_for(heard.get(), DEADLINE_S)
        assert message.subject == f"{grounds.root}.audit.default.execution.created.{one}"
        assert audit.decode(message.data).id == one
        await grounds.empty()
    assert heard.empty()
    stored = await grounds.js.get_msg(grounds.stream, 2)
    assert stored.subject == f"{grounds.root}.audit.default.execution.created"


async def test_sigkill_at_any_moment_loses_and_doubles_nothing(grounds: Grounds, tmp_path: Path):
    filling = asyncio.create_task(grounds.fill(2500))
    relay = Process(grounds, tmp_path / "relay.log")
    goal = 0
    for _ in range(8):
        await relay.start()
        goal = min(goal + random.randrange(500, 4000), 20_000)
        await grounds.until(lambda: grounds.relayed(goal), "progress")  # noqa: B023 - awaited at once
        await asyncio.sleep(random.uniform(0, 0.03))  # so that each kill hits another moment
        await relay.kill()
    await relay.start()
    await filling
    await grounds.whole()
    await relay.kill()


async def test_a_rival_that_wrongly_thinks_it_leads_does_no_harm(grounds: Grounds):
    async with relaying(grounds, leading) as one, relaying(grounds, leading) as two:
        await grounds.fill(800)
        await grounds.whole()
        numbers = one.metrics.exposition().decode() + two.metrics.exposition().decode()
        assert numbers.count("penstock_audit_active") >= 2


async def test_a_stand_by_takes_over(grounds: Grounds):
    async with relaying(grounds) as one, relaying(grounds) as two:
        both = [one, two]

        async def one_leads() -> bool:
            return sum(running.context.membership.is_leader() for running in both) == 1

        await grounds.until(one_leads, "agreement on who leads")
        leader, other = sorted(both, key=lambda running: not running.context.membership.is_leader())
        await grounds.fill(50)
        await grounds.whole()
        await leader.stop()
        await grounds.fill(50)
        await grounds.whole()
        assert 'penstock_audit_active{component="audit-relay"} 1.0' in other.metrics.exposition().decode()


async def test_nats_may_be_killed_while_events_flow(grounds: Grounds):
    async with relaying(grounds):
        for _ in range(3):
            goal = grounds.sent
            filling = asyncio.create_task(grounds.fill(300))
            await grounds.until(lambda: grounds.relayed(goal + 500), "progress")  # noqa: B023
            grounds.nats.kill()
            await filling
            assert await grounds.waiting() > 0
            grounds.nats.start()
        await grounds.whole()


async def test_valkey_may_be_killed_while_events_flow(grounds: Grounds):
    async with relaying(grounds):
        for _ in range(3):
            await grounds.fill(100)
            grounds.valkey.kill()
            grounds.valkey.start()
            await grounds.until(grounds.answers, "Valkey's return")
        await grounds.whole()


async def test_a_missing_stream_is_made_again_and_what_waits_is_relayed(grounds: Grounds):
    async with relaying(grounds):
        await grounds.fill(20)
        await grounds.whole()
        await grounds.js.delete_stream(grounds.stream)
        grounds.seqs.clear()
        grounds.sent = 0
        await grounds.fill(20)
        await grounds.whole()


async def test_half_a_batch_in_the_stream_is_completed(grounds: Grounds):
    """As if nats-server was killed while it wrote a batch: the end of the batch, with the cursor, is missing."""
    async with relaying(grounds):
        await grounds.fill(5)
        await grounds.whole()
    blob = grounds.events(1, 10)
    await grounds.add(1, blob)
    hashed = audit.decode(
        (await grounds.js.get_msg(grounds.stream, grounds.sent - 10)).data or b""
    ).hash.encode()
    pairs = iter(msgspec.msgpack.decode(blob))
    for _, ((entity, namespace, name), event) in zip(range(4), zip(pairs, pairs, strict=True), strict=False):
        seq, what, at, actor, from_, to, reason, data = event
        told = audit.Facts(
            f"{name}:{seq}", 1, seq, namespace, entity, name, what, at, actor, from_, to, reason or None, data
        )
        body, hashed = audit.seal(audit.canonical(told), hashed)
        await grounds.js.publish(f"{grounds.root}.audit.{audit.tokens(namespace, entity, what, name)}", body)
    async with relaying(grounds):
        await grounds.fill(5)
        await grounds.whole()


async def test_rubbish_becomes_a_dead_letter_and_holds_nothing_up(grounds: Grounds):
    await grounds.add(0, grounds.events(0, 3))
    await grounds.add(0, b"\xc1 no msgpack")
    await grounds.add(0, msgspec.msgpack.encode([["execution", "default", "0-x"], ["bad"]]))
    await grounds.add(0, grounds.events(0, 3))
    async with relaying(grounds) as running:
        await grounds.whole()
        numbers = running.metrics.exposition().decode()
        assert 'penstock_audit_dead_letters_total{component="audit-relay"} 2.0' in numbers
    dead = await grounds.js.subscribe(f"{grounds.root}.dead.audit", deliver_policy=DeliverPolicy.ALL)
    letters = [await dead.next_msg(timeout=DEADLINE_S) for _ in range(2)]
    assert letters[0].data == b"\xc1 no msgpack"
    assert "cannot be read" in letters[0].headers["Penstock-Dead-Reason"]
    assert msgspec.msgpack.decode(letters[1].data)[1] == ["bad"]


async def test_a_message_from_elsewhere_is_told_apart_and_breaks_neither_proof_nor_relay(grounds: Grounds):
    async with relaying(grounds):
        await grounds.fill(5)
        await grounds.empty()
        await grounds.js.publish(f"{grounds.root}.audit.default.execution.leased.x", b"forged")
        await grounds.fill(5)
        await grounds.empty()
    report = await audit.verify(grounds.client, grounds.stream)
    assert report.ok
    assert (report.strangers, report.events) == (1, grounds.sent)
