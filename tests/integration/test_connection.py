"""A connection to NATS: nothing is lost, doubled or reordered on it, and no call waits for a server that is gone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError

from penstock import Client, errors
from penstock.bus.connection import connect
from penstock.bus.listening import listen, unsubscribe
from penstock.bus.sending import post, send
from proxies import Proxy
from served import until
from servers import NatsServer


async def test_flush_vouches_for_subscriptions(nats_url: str) -> None:
    answering, asking = await connect(nats_url, "answering"), await connect(nats_url, "asking")

    async def answer(msg: Msg) -> None:
        await msg.respond(b"here")

    for number in range(100):
        for each in range(20):
            await answering.subscribe(f"flush.{number}.{each}", cb=answer)
        await answering.flush()
        assert (await asking.request(f"flush.{number}.19", b"", timeout=5)).data == b"here"
    await answering.close()
    await asking.close()


@pytest.mark.parametrize("noticed", [False, True])
async def test_closing_without_a_server_is_quiet(tmp_path: Path, noticed: bool) -> None:
    server = NatsServer(tmp_path)
    server.start()
    nats = await connect(server.url, "left alone")
    client = Client(nats)
    server.kill()
    if noticed:
        async with asyncio.timeout(10):
            while nats.is_connected:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.001)
    async with asyncio.timeout(8):
        await client.close()
    assert nats.is_closed


async def test_a_stream_of_events_ends_with_its_connection(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    try:
        async with await Client.connect(server.url) as client, client.events() as events:
            server.turn_clients_away()
            for _ in range(2):
                with pytest.raises(errors.Timeout, match="maximum connections exceeded"):
                    await events.next(10)
    finally:
        server.kill()


class Stalling(Proxy):
    """A proxy that takes nothing more from its clients while `flowing` is not set."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def _sent(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        while data := await reader.read(65536):
            await self.flowing.wait()
            yield data


class Heard:
    """The messages of a subject, whose data are 0, 1, 2 … and padding."""

    def __init__(self, goal: int) -> None:
        self.numbers: list[int] = []
        self.goal = goal

    def take(self, msg: Msg) -> None:
        self.numbers.append(int(msg.data[:8]))

    def all(self) -> bool:
        return len(self.numbers) >= self.goal


async def test_messages_of_all_sizes_arrive_in_their_order(nats_url: str) -> None:
    sender, receiver = await connect(nats_url, "sender"), await connect(nats_url, "receiver")
    heard = Heard(300)
    await listen(receiver, "sizes", heard.take)
    await receiver.flush()
    for number in range(300):
        padding = b"\r\n" * (number**3 % 500_000)
        headers = {"Number": str(number)} if number % 3 else None
        await send(sender, "sizes", b"%08d" % number + padding, headers=headers)
        if number % 20 == 0:
            await sender.flush()
    await until(heard.all)
    assert heard.numbers == list(range(300))
    await sender.close()
    await receiver.close()


async def test_a_server_that_reads_slowly_is_waited_for(nats_url: str) -> None:
    """Beyond the socket's buffer nothing is written, so that nats-py's own bound on unsent bytes holds."""
    async with Stalling.before(nats_url) as slow:
        sender, receiver = await connect(slow.url, "sender"), await connect(nats_url, "receiver")
        heard = Heard(200)
        await listen(receiver, "slow", heard.take)
        await receiver.flush()
        slow.flowing.clear()
        for number in range(200):
            await send(sender, "slow", b"%08d" % number + bytes(50_000))
            await asyncio.sleep(0)
        assert not post(sender, "slow", b"", "")
        assert sender.pending_data_size > 2_000_000
        slow.flowing.set()
        await until(heard.all)
        assert heard.numbers == list(range(200))
        await sender.close()
        await receiver.close()


async def test_listening_and_publishing_go_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    nats = await connect(server.url, "stays")
    heard = Heard(3)
    await listen(nats, "again", heard.take)
    await nats.publish("again", b"%08d" % 0)
    await nats.flush()
    server.kill()
    await until(lambda: not nats.is_connected)
    assert not post(nats, "again", b"lost", "")
    await send(nats, "again", b"%08d" % 1)
    server.start()
    await until(lambda: nats.is_connected)
    await nats.publish("again", b"%08d" % 2)
    await until(heard.all)
    assert heard.numbers == [0, 1, 2]
    await nats.close()
    server.kill()


@pytest.mark.parametrize("together", [False, True])
async def test_unsubscribing_takes_what_was_sent_before(nats_url: str, together: bool) -> None:
    sender, receiver = await connect(nats_url, "sender"), await connect(nats_url, "receiver")
    heard = Heard(1000)
    subscription = await listen(receiver, "ends", heard.take)
    await receiver.flush()
    for number in range(1000):
        await sender.publish("ends", b"%08d" % number)
    await sender.flush()
    if together:
        await unsubscribe(receiver, [subscription])
    else:
        await subscription.drain()
    assert heard.all()
    await sender.publish("ends", b"%08d" % 1000)
    await sender.flush()
    await receiver.flush()
    assert len(heard.numbers) == 1000
    await sender.close()
    await receiver.close()


async def test_a_subject_that_is_no_text_ends_no_connection(nats_url: str) -> None:
    """NATS takes any bytes as a subject; nats-py stops reading for ever."""
    nats = await connect(nats_url, "receiver")
    heard: list[Msg] = []
    await listen(nats, "text.*", heard.append)
    await nats.flush()
    place = urlsplit(nats_url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(b"CONNECT {}\r\nPUB text.\xff\xfe 1\r\nx\r\nPUB text.good 1\r\ny\r\nPING\r\n")
    while b"PONG" not in await reader.readline():
        pass
    await until(lambda: len(heard) == 2)
    assert [msg.data for msg in heard] == [b"x", b"y"]
    assert nats.is_connected
    writer.close()
    await nats.close()


async def test_a_message_that_is_too_large_is_refused(nats_url: str) -> None:
    nats = await connect(nats_url, "sender")
    with pytest.raises(MaxPayloadError):
        await send(nats, "large", bytes(nats.max_payload + 1))
    assert nats.is_connected
    await nats.close()


async def test_what_is_published_right_before_closing_is_sent(nats_url: str) -> None:
    receiver = await connect(nats_url, "receiver")
    heard = Heard(10)
    await listen(receiver, "last", heard.take)
    await receiver.flush()
    for number in range(10):
        sender = await connect(nats_url, "sender")
        await sender.publish("last", b"%08d" % number)
        await sender.close()
    await until(heard.all)
    assert sorted(heard.numbers) == list(range(10))
    await receiver.close()


async def test_another_client_of_nats_py_can_listen_too(nats_url: str) -> None:
    other = Nats()
    await other.connect(nats_url)
    heard = Heard(1)
    await listen(other, "other", heard.take)
    await send(other, "other", b"%08d" % 5)
    await until(heard.all)
    await other.close()
