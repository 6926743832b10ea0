"""A connection's flush confirms everything sent before it; no call waits for a server that is gone."""

import asyncio
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from penstock import Client, errors
from penstock.bus.connection import connect
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
