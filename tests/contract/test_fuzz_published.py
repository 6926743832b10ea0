"""Publish random bytes under random headers on every published subject: each message is settled, and none is a bug."""

import asyncio
import logging
from urllib.parse import urlsplit

import pytest
from nats.js.api import DeliverPolicy

from fuzzing import Noise, Published
from penstock.bus.streams import DEAD, stream_name
from running_penstock import RunningPenstock

MESSAGES = 200
"""For each of the subjects."""
SEED = 11


async def settled(penstock: RunningPenstock, stream: str) -> None:
    """Wait until every consumer of the stream has taken and settled all of its messages."""

    async def left() -> int:
        consumers = await penstock.js.consumers_info(stream)
        assert consumers, f"nothing consumes {stream}"
        return sum((each.num_pending or 0) + (each.num_ack_pending or 0) for each in consumers)

    await penstock.until(left, lambda count: count == 0, f"all of {stream} is settled")


async def reasons(penstock: RunningPenstock) -> list[str]:
    """Return why each dead letter is one."""
    stream = stream_name(penstock.root, DEAD)
    count = (await penstock.js.stream_info(stream)).state.messages
    letters = await penstock.js.subscribe(
        f"{penstock.root}.dead.>", stream=stream, ordered_consumer=True, deliver_policy=DeliverPolicy.ALL
    )
    found = [await letters.next_msg(20) for _ in range(count)]
    return [(each.headers or {}).get("Penstock-Dead-Reason", "") for each in found]


async def test_no_published_message_is_a_bug(
    penstock: RunningPenstock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    published = await Published.prepare(penstock.request, penstock.js, penstock.root, Noise(SEED))
    for make in published.streams.values():
        for _ in range(MESSAGES // 50):
            batch = [make() for _ in range(50)]
            await asyncio.gather(
                *(penstock.js.publish(subject, body, headers=headers) for subject, body, headers in batch)
            )
    for stream in published.streams:
        await settled(penstock, stream)
    why = await reasons(penstock)
    assert why, "nothing that was sent was wrong"
    assert not [each for each in why if each.startswith(("internal", "valkey_unavailable"))]
    assert not [
        each.getMessage() for each in caplog.records if each.exc_info or each.levelno >= logging.ERROR
    ]
    assert all(service.health.ready for service in penstock.running.values())
    await penstock.js.delete_stream(published.other.upper())


async def test_a_subject_that_is_no_text_is_a_dead_letter(penstock: RunningPenstock) -> None:
    """NATS takes any bytes as a subject. nats-py stops reading for ever at the first that is no text."""
    published = await Published.prepare(penstock.request, penstock.js, penstock.root, Noise(SEED))
    place = urlsplit(penstock.settings.nats_url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    root = penstock.root.encode()
    writer.write(b"CONNECT {}\r\n")
    for subject in (b"signal.\xff", b"event.\xff\xfe", b"event.a.\xff", b"obs.\xff", b"v1.execution.\xff"):
        writer.write(b"PUB " + root + b"." + subject + b" \xff 2\r\n{}\r\n")
    writer.write(b"PING\r\n")
    while b"PONG" not in await reader.readline():
        pass
    for stream in published.streams:
        await settled(penstock, stream)
    assert await reasons(penstock)
    assert await penstock.create(kind="k")
    assert all(service.health.ready for service in penstock.running.values())
    writer.close()
    await penstock.js.delete_stream(published.other.upper())
