"""Messages of the SDK's publisher: together where they come together, each stored once, in order."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.client import Client as Nats
from nats.js.api import StreamConfig

from penstock.bus import line
from penstock.bus.connection import connect, leave
from penstock.bus.line import MAX_MESSAGES, MIN_BATCH
from penstock.client._publishing import Publisher
from penstock.errors import PayloadTooLarge, Timeout
from penstock.testing.servers import NatsServer, running


@pytest.fixture
async def nats(nats_url: str) -> AsyncIterator[Nats]:
    nats = await connect(nats_url, "test")
    assert nats is not None
    yield nats
    await leave(nats)


async def add_stream(nats: Nats, name: str, *, atomic: bool = True) -> str:
    """Make a stream and return a subject that it keeps."""
    js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
    await js.add_stream(StreamConfig(name=name, subjects=[f"{name}.>"], allow_atomic=atomic))
    return f"{name}.signal.x"


async def stored(nats: Nats, subject: str) -> list[tuple[str, bytes]]:
    """Return the message id and body of each message in the stream, in order."""
    js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
    stream = subject.partition(".")[0]
    count = (await js.stream_info(stream)).state.messages
    found = [await js.get_msg(stream, seq) for seq in range(1, count + 1)]
    return [((each.headers or {})["Nats-Msg-Id"], each.data or b"") for each in found]


def ids(*names: object) -> list[dict[str, str]]:
    return [{"Nats-Msg-Id": str(name)} for name in names]


@pytest.mark.parametrize("atomic", [True, False])
async def test_many_at_once_are_stored_once_and_in_order(nats: Nats, atomic: bool) -> None:
    subject = await add_stream(nats, f"many-{atomic}", atomic=atomic)
    publisher = Publisher(nats, 20.0)
    count = MAX_MESSAGES + 50
    before = nats.stats["in_msgs"]
    await asyncio.gather(*(publisher.publish(subject, b"%d" % n, *ids(n)) for n in range(count)))
    acks = nats.stats["in_msgs"] - before
    assert acks == 2 if atomic else acks > count
    messages = await stored(nats, subject)
    assert len(messages) == count
    if atomic:
        assert messages == [(str(n), b"%d" % n) for n in range(count)]


async def test_a_few_at_once_are_no_batch_and_in_order(nats: Nats) -> None:
    subject = await add_stream(nats, "few")
    publisher = Publisher(nats, 20.0)
    few = MIN_BATCH - 1
    await asyncio.gather(*(publisher.publish(subject, b"%d" % n, *ids(n)) for n in range(few)))
    assert await stored(nats, subject) == [(str(n), b"%d" % n) for n in range(few)]
    first = await nats.jetstream().get_msg("few", 1)
    assert first.headers == {"Nats-Msg-Id": "0"}


async def test_a_line_rests_after_a_batch_and_not_after_a_few(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    sleep = asyncio.sleep

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        await sleep(seconds)

    subject = await add_stream(nats, "rests")
    publisher = Publisher(nats, 20.0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    monkeypatch.setattr(line.asyncio, "sleep", rest)
    await asyncio.gather(*(publisher.publish(subject, b"", *ids(n)) for n in range(3 * MAX_MESSAGES)))
    taken = loop.time() - began
    assert len(rests) == 3
    assert all(seconds > 0 for seconds in rests)
    assert sum(rests[:2]) <= taken / 2
    await publisher.publish(subject, b"", *ids("alone"))
    assert len(rests) == 3


@pytest.mark.parametrize("others", [2, 2 * MIN_BATCH])
async def test_what_is_known_already_keeps_nothing_else_out(nats: Nats, others: int) -> None:
    subject = await add_stream(nats, f"known-{others}")
    publisher = Publisher(nats, 20.0)
    await publisher.publish(subject, b"", *ids("a"))
    names = [f"b{n}" for n in range(others)]
    await asyncio.gather(*(publisher.publish(subject, b"", header) for header in ids(*names, "a", "c", "c")))
    assert sorted(name for name, _ in await stored(nats, subject)) == sorted([*names, "a", "c"])


async def test_a_lone_message_does_not_wait_for_others(nats: Nats) -> None:
    subject = await add_stream(nats, "lone")
    publisher = Publisher(nats, 20.0)
    for n in range(3):
        await publisher.publish(subject, b"", *ids(n))
    assert [name for name, _ in await stored(nats, subject)] == ["0", "1", "2"]


async def test_one_that_is_given_up_takes_nobody_with_it(nats: Nats) -> None:
    subject = await add_stream(nats, "given-up")
    publisher = Publisher(nats, 20.0)
    publishing = [
        asyncio.create_task(publisher.publish(subject, b"", header)) for header in ids("a", "b", "c")
    ]
    await asyncio.sleep(0)
    publishing[1].cancel()
    await asyncio.gather(publishing[0], publishing[2])
    assert {"a", "c"} <= {name for name, _ in await stored(nats, subject)}


async def test_errors(nats: Nats) -> None:
    subject = await add_stream(nats, "errors")
    with pytest.raises(PayloadTooLarge):
        await Publisher(nats, 20.0).publish(subject, b"x" * nats.max_payload, *ids("a"))
    alone = Publisher(nats, 0.1)
    results = await asyncio.gather(
        *(alone.publish("nobody.signal.x", b"", header) for header in ids("a", "b")), return_exceptions=True
    )
    assert [type(each) for each in results] == [Timeout, Timeout]
    assert "no stream keeps this subject" in str(results[0])


async def test_a_server_that_dies_in_the_middle_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with running(lambda _: NatsServer(tmp_path)) as server:
        nats = await connect(server.url, "test")
        assert nats is not None
        subject = await add_stream(nats, "killed")
        publisher = Publisher(nats, 30.0)
        publishing = [
            asyncio.create_task(publisher.publish(subject, b"", *ids(n))) for n in range(4 * MAX_MESSAGES)
        ]
        await publishing[0]
        server.kill()
        server.start()
        await asyncio.gather(*publishing)
        names = [name for name, _ in await stored(nats, subject)]
        assert sorted(names, key=int) == [str(n) for n in range(4 * MAX_MESSAGES)]
        await leave(nats)
