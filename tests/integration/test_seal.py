"""Hints are believed only from services: what any other NATS client publishes on their subjects changes nothing."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import msgpack
from nats.aio.client import Client
from nats.aio.msg import Msg

from penstock.bus import connection, seal
from penstock.bus.hints import Hints
from penstock.bus.seal import HEADER, Seal
from penstock.runtime import Context, Running, Service, Settings, start
from served import until
from servers import nats_server, valkey_server


@pytest.fixture
async def keeper(root: str) -> AsyncIterator[Running]:
    """A service with sixteen partitions, on servers of its own."""
    with nats_server() as nats, valkey_server() as valkey:
        settings = Settings(
            nats_url=nats, valkey_url=valkey, root=root, partitions=16, instance="i0", sweep_ms=60_000
        )
        running = await start("lease-keeper", _with_due_work, settings)
        yield running
        await running.stop()


def _with_due_work(context: Context) -> Service:
    return Service("lease-keeper", due=True)


@pytest.fixture
async def stranger(keeper: Running) -> AsyncIterator[Client]:
    client = await connection.connect(keeper.settings.nats_url, "stranger")
    yield client
    await client.close()


async def second(keeper: Running) -> Running:
    """Start another instance of the service."""
    one = keeper.settings
    return await start(
        "lease-keeper",
        _with_due_work,
        Settings(
            nats_url=one.nats_url, valkey_url=one.valkey_url, root=one.root, partitions=16, instance="i1"
        ),
    )


async def test_forged_heartbeats_take_no_partition(keeper: Running, stranger: Client) -> None:
    subject = f"{keeper.settings.root}.hint.alive.lease-keeper"
    forger = Seal(b"a key of the stranger's own")
    for n in range(200):
        body = msgpack.encode([{"instance": f"forged-{n}", "bye": False}])
        headers = {HEADER: forger.sign(subject, body)} if n % 2 else None
        await stranger.publish(subject, body, headers=headers)
    refused = keeper.context.hints.refused
    await until(lambda: refused.total() == 200)
    assert refused == {"unsigned": 100, "forged": 100}
    membership = keeper.context.membership
    assert membership.is_alone()
    assert membership.owned() == frozenset(range(16))
    # Due work goes on: a due time is looked at, long before a sweep.
    before = keeper.context.due.slices
    keeper.context.wakes.route(3, {"due": {"lease-keeper": int(keeper.context.due.clock.now())}})
    await until(lambda: keeper.context.due.slices > before)


async def test_a_storm_of_forged_hints_makes_no_calls(keeper: Running, stranger: Client) -> None:
    due = keeper.context.due
    await until(lambda: due.slices >= 16)  # those of the start
    refused, before = keeper.context.hints.refused, due.slices
    body = msgpack.encode([["forged", partition, {"lease-keeper": 1}] for partition in range(16)] * 50)
    for _ in range(2000):
        await stranger.publish(f"{keeper.settings.root}.hint.due", body)
    await until(lambda: refused["unsigned"] == 2000)
    assert due.slices == before


async def test_an_old_hint_is_not_repeated(
    client: Client, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Msg] = []
    heard: list[Any] = []
    hints = Hints(client, root, Seal(b"k" * 32))

    async def record(msg: Msg) -> None:
        sent.append(msg)

    await client.subscribe(f"{root}.hint.>", cb=record)
    await hints.listen("ready", heard.append)
    hints.send("ready", 1)
    await until(lambda: len(sent) == 1 and heard == [1])
    [hint] = sent
    # Nor under another subject, nor with another body.
    await hints.listen("done", heard.append)
    await client.publish(f"{root}.hint.done", hint.data, headers=hint.headers)
    await client.publish(hint.subject, msgpack.encode([2]), headers=hint.headers)
    for spoilt in ("", ".", "1", "1.", "x.y", "\u00fc.\u00fc", "9" * 500 + "." + "f" * 32):
        await client.publish(hint.subject, hint.data, headers={HEADER: spoilt})
    await until(lambda: hints.refused.total() == 9)
    real = time.time
    monkeypatch.setattr(seal.time, "time", lambda: real() + seal.WINDOW_S + 1)
    await client.publish(hint.subject, hint.data, headers=hint.headers)
    await until(lambda: hints.refused["stale"] == 1)
    assert heard == [1]


async def test_services_find_a_new_key(keeper: Running) -> None:
    """Valkey lost the key (an older backup, a rotation): whoever starts makes another, and the others follow."""
    machine = keeper.context.machine
    first = await machine.hint_key()
    assert await machine.hint_key() == first
    await machine.store.execute_everywhere("DEL", f"{keeper.settings.root}:{{0}}:hint-key")
    other = await second(keeper)
    try:
        await until(lambda: len(keeper.context.membership.members) == 2)
        await until(lambda: len(other.context.membership.members) == 2)
        assert await machine.hint_key() != first
    finally:
        await other.stop()
