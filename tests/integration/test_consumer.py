"""The durable consumer: batches, retries, dead letters, sharing, and recovery after a loss."""

import asyncio
import itertools
from collections.abc import Sequence

import nats.js.api
import pytest
from nats.aio.client import Client

from penstock import errors
from penstock.bus import connection, streams, trimming
from penstock.bus.consumer import Consumer
from penstock.bus.line import Line, Message
from penstock.bus.outcomes import ACK, Ack
from penstock.bus.trimming import Trimming
from served import DEADLINE_S, Collector, consuming, is_left, left, until


async def test_messages_are_handled_in_batches_and_leave(client: Client, root: str):
    async with consuming(client, root, batch=100) as got:
        for n in range(1000):
            await client.publish(f"{root}.signal.w.go", str(n).encode())
        await until(lambda: len(got.seen) >= 1000)
        assert got.seen == [str(n).encode() for n in range(1000)]
        assert len(got.batches) < 500
        assert max(got.batches) <= 100
        await until(is_left(client, root, 0))


async def test_an_idle_consumer_is_quick(client: Client, root: str):
    loop = asyncio.get_running_loop()
    async with consuming(client, root) as got:
        took = []
        for n in range(50):
            began = loop.time()
            await client.publish(f"{root}.signal.w.go", b"x")
            await until(lambda n=n: len(got.seen) == n + 1)
            took.append(loop.time() - began)
    assert sorted(took)[25] < 10  # a fetch that waits for its batch would take half a minute (`_EXPIRES_S`)


async def test_retry_and_dead_letters(client: Client, root: str):
    js = client.jetstream()
    async with consuming(client, root) as got:
        await js.publish(f"{root}.signal.w.go", b"again")
        await js.publish(
            f"{root}.signal.w.go",
            b"dead",
            headers={
                "Penstock-Token": "k.w.mac",
                "Nats-Msg-Id": "s1",
                "Nats-Expected-Stream": f"{root.upper()}_SIGNALS",
            },
        )
        for body in (b"poison", b"bug", b"good"):
            await js.publish(
                f"{root}.signal.w.go", body, headers={"penstock-token": "secret", "My-Header": "mine"}
            )
        await until(is_left(client, root, 0))
        await until(is_left(client, root, 2, streams.DEAD))
    assert got.seen.count(b"again") == 3
    assert got.seen.count(b"bug") == 4
    dead = streams.stream_name(root, streams.DEAD)
    letters = {msg.data: msg for msg in [await js.get_msg(dead, seq=seq) for seq in (1, 2)]}
    first, second = letters[b"dead"], letters[b"poison"]
    assert first.subject == f"{root}.dead.signal.w.go"
    assert first.headers["Penstock-Dead-Reason"] == "never wanted"
    assert first.headers["Penstock-Message-Id"] == "s1"
    assert "invalid_token" in second.headers["Penstock-Dead-Reason"]
    assert second.headers["My-Header"] == "mine"
    for letter in letters.values():
        assert "penstock-token" not in {name.lower() for name in letter.headers}


async def test_dead_letters_hold_up_nothing(
    client: Client, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages behind a dead one are handled while its letter is stored; it stays until that is done."""
    release, send_all = asyncio.Event(), Line.send_all

    async def slowly(line: Line, messages: Sequence[Message]) -> list[str | None]:
        await release.wait()
        return await send_all(line, messages)

    monkeypatch.setattr(Line, "send_all", slowly)
    js = client.jetstream()
    async with consuming(client, root) as got:
        for _ in range(50):
            await js.publish(f"{root}.signal.w.go", b"dead")
        await js.publish(f"{root}.signal.w.go", b"good")
        await until(lambda: b"good" in got.seen)
        assert await left(client, root) >= 50
        assert await left(client, root, streams.DEAD) == 0
        release.set()
        await until(is_left(client, root, 50, streams.DEAD))
        await until(is_left(client, root, 0))


async def test_a_message_whose_dead_letter_cannot_be_stored_comes_again(
    client: Client, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.bus.consumer._LETTER_PAUSE_S", 0.1)
    js = client.jetstream()
    dead = streams.stream_name(root, streams.DEAD)
    async with consuming(client, root) as got:
        await js.delete_stream(dead)
        for _ in range(3):
            await js.publish(f"{root}.signal.w.go", b"dead")
        await until(lambda: got.seen.count(b"dead") > 6)
        await streams.ensure(js, root)
        await until(is_left(client, root, 3, streams.DEAD))
        await until(is_left(client, root, 0))


async def test_what_is_acknowledged_leaves_the_stream_and_nothing_else(
    client: Client, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two instances is stuck with a message: it stays, and so do those behind it, until it is acknowledged."""
    release, trims, trim = asyncio.Event(), itertools.count(), Trimming._trim  # pyright: ignore[reportPrivateUsage]

    async def handler(messages: list[nats.aio.msg.Msg]) -> list[Ack]:
        if b"stuck" in [msg.data for msg in messages]:
            await release.wait()
        return [ACK] * len(messages)

    async def counted(each: Trimming) -> None:
        await trim(each)
        next(trims)

    monkeypatch.setattr(trimming, "EVERY_S", 0.02)
    monkeypatch.setattr(Trimming, "_trim", counted)
    js = client.jetstream()
    name = streams.stream_name(root, streams.SIGNALS)
    async with consuming(client, root, handler, batch=2), consuming(client, root, handler, batch=2):
        await js.publish(f"{root}.signal.w.go", b"first")
        await until(is_left(client, root, 0))
        for body in (b"stuck", *[b"later"] * 20):
            await js.publish(f"{root}.signal.w.go", body)

        async def others_are_done() -> bool:
            info = await js.consumer_info(name, "router")
            return (info.num_pending or 0) + (
                info.num_ack_pending or 0
            ) <= 4  # what the stuck one has asked for

        await until(others_are_done)
        then = next(trims)
        await until(lambda: next(trims) > then + 20)
        assert (await js.get_msg(name, 2)).data == b"stuck"
        assert await left(client, root) == 21
        release.set()
        await until(is_left(client, root, 0))


async def test_a_work_queue_of_an_earlier_version_stays_one(client: Client, root: str) -> None:
    js = client.jetstream()
    for config in streams.definitions(root):
        if "SIGNALS" in str(config.name):
            old = {"penstock-definition": "4"}
            await js.add_stream(config.evolve(retention=nats.js.api.RetentionPolicy.WORK_QUEUE, metadata=old))
    async with consuming(client, root) as got:
        for n in range(10):
            await js.publish(f"{root}.signal.w.go", str(n).encode())
        await until(is_left(client, root, 0))
    assert len(got.seen) == 10
    signals = await js.stream_info(streams.stream_name(root, streams.SIGNALS))
    assert signals.config.retention == nats.js.api.RetentionPolicy.WORK_QUEUE


async def test_unavailability_is_retried(client: Client, root: str):
    tries: list[int] = []

    async def handler(messages: list[nats.aio.msg.Msg]) -> list[Ack]:
        tries.append(len(messages))
        if len(tries) < 3:
            raise errors.make("valkey_unavailable")
        return [ACK] * len(messages)

    async with consuming(client, root, handler):
        await client.jetstream().publish(f"{root}.signal.w.go", b"x")
        await until(is_left(client, root, 0))
    assert tries == [1, 1, 1]


async def test_a_strangers_message_is_no_message_of_the_stream(client: Client, url: str, root: str):
    stranger = await connection.connect(url, "stranger")
    target = await stranger.subscribe(f"{root}.hint.ready")
    await stranger.flush()
    got = Collector()
    consumer = Consumer(streams.SIGNALS, "router", got)
    await streams.ensure(client.jetstream(), root)
    await consumer.start(client, root)
    await stranger.publish(consumer._pulling._inbox, b"forged", reply=f"{root}.hint.ready")
    await stranger.flush()
    await stranger.jetstream().publish(f"{root}.signal.w.go", b"real")
    await until(is_left(client, root, 0))
    await consumer.stop()
    assert got.seen == [b"real"]
    await client.flush()
    await stranger.flush()
    assert target.pending_msgs == 0
    await stranger.close()


async def test_two_instances_share(client: Client, url: str, root: str):
    other = await connection.connect(url, "other")
    async with consuming(client, root, batch=10) as one, consuming(other, root, batch=10) as two:
        for n in range(2000):
            await client.publish(f"{root}.signal.w.go", str(n).encode())
        await until(lambda: len(one.seen) + len(two.seen) >= 2000)
        await until(is_left(client, root, 0))
    assert sorted(map(int, one.seen + two.seen)) == list(range(2000))
    assert one.seen
    assert two.seen
    await other.close()


async def test_stop_gives_back_what_waits(client: Client, url: str, root: str):
    working, release = asyncio.Event(), asyncio.Event()

    async def slow(messages: list[nats.aio.msg.Msg]) -> list[Ack]:
        working.set()
        await release.wait()
        return [ACK] * len(messages)

    await streams.ensure(client.jetstream(), root)
    for n in range(10):
        await client.jetstream().publish(f"{root}.signal.w.go", str(n).encode())
    consumer = Consumer(streams.SIGNALS, "router", slow, batch=4)
    await consumer.start(client, root)
    await working.wait()
    stopping = asyncio.create_task(consumer.stop())
    release.set()
    await stopping
    other = await connection.connect(url, "other")
    async with consuming(other, root) as got:  # redelivered at once, not after ack_wait
        await until(is_left(client, root, 0))
    assert 0 < len(got.seen) < 10
    await other.close()


async def test_two_batches_at_once(client: Client, root: str):
    begun, releases = asyncio.Queue[list[bytes]](), asyncio.Queue[None]()
    stopping: list[asyncio.Task[None]] = []

    async def slow(messages: list[nats.aio.msg.Msg]) -> list[Ack]:
        begun.put_nowait([message.data for message in messages])
        await releases.get()
        return [ACK] * len(messages)

    await streams.ensure(client.jetstream(), root)
    for n in range(5):
        await client.jetstream().publish(f"{root}.signal.w.go", b"%d" % n)
    consumer = Consumer(streams.SIGNALS, "router", slow, batch=1, at_once=2)
    await consumer.start(client, root)
    async with asyncio.timeout(DEADLINE_S):
        assert [await begun.get(), await begun.get()] == [[b"0"], [b"1"]]
        releases.put_nowait(None)
        assert await begun.get() == [b"2"]
        await until(lambda: consumer.acked == 1)
        assert begun.empty()
        stopping.append(asyncio.create_task(consumer.stop()))
        for _ in range(2):
            releases.put_nowait(None)
        await stopping[0]
    assert consumer.acked == 3 and begun.empty()  # it waits for what it has begun, and begins nothing more


async def test_what_is_in_hand_comes_to_nobody_else(client: Client, url: str, root: str):
    release, kept = asyncio.Event(), asyncio.Queue[bytes]()
    seen: list[bytes] = []

    async def slow(messages: list[nats.aio.msg.Msg]) -> list[Ack]:
        seen.extend(message.data for message in messages)
        await release.wait()
        return [ACK] * len(messages)

    async def hear(message: nats.aio.msg.Msg) -> None:
        if message.data == b"+WPI":
            kept.put_nowait(message.data)

    await client.subscribe("$JS.ACK.>", cb=hear)
    other = await connection.connect(url, "other")
    async with consuming(client, root, slow, ack_wait=0.4), consuming(other, root, slow, ack_wait=0.4):
        await client.publish(f"{root}.signal.w.go", b"x")
        for _ in range(8):  # twice as long as ack_wait
            await asyncio.wait_for(kept.get(), 20)
        release.set()
        await until(is_left(client, root, 0))
    assert seen == [b"x"]
    await other.close()


async def test_what_a_dead_instance_had_in_hand_comes_again(client: Client, url: str, root: str):
    working, release = asyncio.Event(), asyncio.Event()

    async def stuck(messages: list[nats.aio.msg.Msg]) -> list[Ack]:
        working.set()
        await release.wait()
        return [ACK] * len(messages)

    await streams.ensure(client.jetstream(), root)
    other = await connection.connect(url, "other")
    dead = Consumer(streams.SIGNALS, "router", stuck, ack_wait=0.4)
    await dead.start(other, root)
    await client.publish(f"{root}.signal.w.go", b"x")
    await asyncio.wait_for(working.wait(), 20)
    await other.close()
    for n in range(5):  # later messages wait for the first one
        await client.publish(f"{root}.signal.w.go", str(n).encode())
    async with consuming(client, root, ack_wait=0.4, in_order=True) as got:
        await until(lambda: len(got.seen) == 6)
    assert got.seen == [b"x", b"0", b"1", b"2", b"3", b"4"]
    release.set()
    await dead.stop()


async def test_a_durable_or_stream_that_vanished_comes_back(client: Client, root: str):
    js = client.jetstream()
    name = streams.stream_name(root, streams.SIGNALS)
    async with consuming(client, root, heartbeat=0.2) as got:
        await js.delete_consumer(name, "router")
        await js.publish(f"{root}.signal.w.go", b"one")
        await until(lambda: got.seen == [b"one"])
        await js.delete_stream(name)

        async def published() -> bool:
            try:
                await js.publish(f"{root}.signal.w.go", b"two")
            except nats.js.errors.NoStreamResponseError:
                return False
            return True

        await until(published)
        await until(lambda: got.seen == [b"one", b"two"])


async def test_a_loss_that_is_noticed_while_messages_are_asked_for_is_mended_at_once(
    client: Client, root: str
):
    """The durable vanishes during the pull itself; otherwise only the heartbeat, some ten seconds later, would tell."""
    await streams.ensure(client.jetstream(), root)
    collector = Collector()
    consumer = Consumer(streams.SIGNALS, "router", collector, heartbeat=10.0)
    pulling = consumer._pulling  # pyright: ignore[reportPrivateUsage]
    pull, pulled = pulling._pull, asyncio.Event()  # pyright: ignore[reportPrivateUsage]

    async def pull_and_lose() -> None:
        await pull()
        if not pulled.is_set():
            await client.flush()
            await client.jetstream().delete_consumer(consumer._name, "router")  # pyright: ignore[reportPrivateUsage]
            await until(lambda: pulling._lost)  # pyright: ignore[reportPrivateUsage]
            pulled.set()

    pulling._pull = pull_and_lose  # pyright: ignore[reportPrivateUsage]
    await consumer.start(client, root)
    try:
        await asyncio.wait_for(pulled.wait(), DEADLINE_S)
        await client.jetstream().publish(f"{root}.signal.w.go", b"x")
        await until(is_left(client, root, 0))
        assert collector.seen == [b"x"]
    finally:
        await consumer.stop()
