"""The bus: hints, streams, and servers that go away."""

import asyncio
import logging
from pathlib import Path

import nats.js.api
import pytest
from msgspec import msgpack
from nats.aio.client import Client

from penstock import verbs
from penstock.bus import connection, streams
from penstock.bus.hints import Hints
from penstock.bus.seal import Seal
from penstock.errors import PenstockError
from served import DEADLINE_S, FENCE, ID, ask, consuming, echo, is_left, serving, until
from servers import NatsServer, nats_server


async def test_hints_of_a_tick_are_one_message(client: Client, root: str):
    hints = Hints(client, root, Seal(b"k"))
    heard: list = []
    messages: list = []

    async def count(msg: nats.aio.msg.Msg) -> None:
        messages.append(msg.data)

    def callback(payload: object) -> None:
        heard.append(payload)
        if payload == 0:
            raise RuntimeError("one listener's bug")

    await hints.listen("ready", callback)
    await client.subscribe(f"{root}.hint.ready", cb=count)
    await client.flush()
    await client.publish(f"{root}.hint.ready", b"\xc1 no msgpack")
    for n in range(5):
        hints.send("ready", n)
    await until(lambda: len(heard) == 5)
    assert heard == [0, 1, 2, 3, 4]
    assert [msgpack.decode(data) for data in messages[1:]] == [[0, 1, 2, 3, 4]]
    await client.close()
    hints.send("ready", 6)  # nothing is raised
    await until(lambda: hints._sending is None)


async def test_streams_are_made_once_by_many(client: Client, url: str, root: str):
    others = [await connection.connect(url, f"other-{n}") for n in range(4)]
    await asyncio.gather(*(streams.ensure(each.jetstream(), root) for each in others))
    js = client.jetstream()
    before = [(await js.stream_info(streams.stream_name(root, streams.AUDIT))).created]
    await streams.ensure(js, root)
    audit = await js.stream_info(streams.stream_name(root, streams.AUDIT))
    assert [audit.created] == before
    assert audit.config.allow_atomic
    assert audit.config.deny_delete
    assert audit.config.deny_purge
    signals = await js.stream_info(f"{root.upper()}_SIGNALS")
    assert signals.config.retention == nats.js.api.RetentionPolicy.LIMITS
    assert signals.config.duplicate_window == 120

    await js.publish(f"{root}.audit.default.execution.created.{ID}", b"{}")
    stored = await js.get_msg(audit.config.name, seq=1)
    assert stored.subject == f"{root}.audit.default.execution.created"
    for other in others:
        await other.close()


async def test_streams_that_store_show_no_write_error(client: Client, root: str):
    """What a full disk does is in tests/chaos/test_full_disks.py; here nothing must look like it, nor be deleted."""
    js = client.jetstream()
    await streams.ensure(js, root)
    signals = streams.stream_name(root, streams.SIGNALS)
    await js.publish(f"{root}.signal.a")
    for name in (
        *(streams.stream_name(root, each) for each in (streams.AUDIT, streams.DEAD)),
        signals,
        "NONE",
    ):
        assert await streams.write_error(client, name) is None
    assert (await js.stream_info(signals)).state.messages == 1


async def test_streams_are_mended_but_never_downgraded(client: Client, root: str):
    js = client.jetstream()
    await streams.ensure(js, root)
    name = streams.stream_name(root, streams.SIGNALS)
    config = (await js.stream_info(name)).config
    await js.update_stream(config.evolve(max_bytes=1 << 20, duplicate_window=10))
    await streams.ensure(js, root)
    config = (await js.stream_info(name)).config
    assert config.max_bytes == 1 << 20  # an operator's limit stays
    assert config.duplicate_window == 120

    newer = {**config.metadata, "penstock-definition": "99"}
    await js.update_stream(config.evolve(duplicate_window=10, metadata=newer))
    await streams.ensure(js, root)
    assert (await js.stream_info(name)).config.duplicate_window == 10


async def test_everything_survives_a_killed_server(tmp_path: Path, root: str):
    server = NatsServer(tmp_path)
    server.start()
    try:
        client = await connection.connect(server.url, "service")
        caller = await connection.connect(server.url, "caller")
        async with (
            serving(client, root, {verbs.LEASE_START: echo}),
            consuming(client, root) as got,
        ):
            await caller.jetstream().publish(f"{root}.signal.w.go", b"before")
            await until(lambda: got.seen == [b"before"])
            await until(is_left(client, root, 0))
            server.kill()
            await until(lambda: not client.is_connected and not caller.is_connected)
            server.start()
            await until(lambda: client.is_connected and caller.is_connected)

            async def published() -> bool:
                try:
                    await caller.jetstream().publish(f"{root}.signal.w.go", b"after", timeout=1)
                except (nats.errors.Error, TimeoutError):
                    return False
                return True

            await until(published)
            await until(lambda: b"after" in got.seen)

            async def answered() -> bool:
                try:
                    return (await ask(caller, root, verbs.LEASE_START, FENCE))[0] == {"state": "l"}
                except nats.errors.Error:
                    return False

            await until(answered)
            await until(is_left(client, root, 0))
        await client.close()
        await caller.close()
    finally:
        server.kill()


async def test_a_client_is_told_what_to_check():
    with pytest.raises(
        PenstockError, match=r"cannot reach NATS at nats://127.0.0.1:1: is nats-server"
    ) as caught:
        await connection.connect("nats://127.0.0.1:1", "x", timeout=0.3)
    assert caught.value.code == "timeout"
    for bad in ("", "nats://", "nats://h:port", "http:///x"):
        with pytest.raises(PenstockError) as caught:
            await connection.connect(bad, "x")
        assert caught.value.code == "invalid_request"
    with pytest.raises(PenstockError, match="no NATS credentials file"):
        await connection.connect("nats://127.0.0.1:1", "x", "/nowhere/x.creds")


async def test_logins_in_the_url_stay_out_of_the_log(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    with nats_server('authorization { user: "me", password: "p@ss:word" }') as url:
        host = url.removeprefix("nats://")
        client = await connection.connect(f"nats://me:p%40ss%3Aword@{host}", "x")
        assert client.is_connected
        await client.close()
        with pytest.raises(PenstockError, match="refused the login") as caught:
            await connection.connect(f"nats://me:swordfish@{host}", "x")
    assert "swordfish" not in caplog.text + str(caught.value)
    assert "p%40ss" not in caplog.text
    assert "p@ss" not in caplog.text


async def test_a_service_waits_for_its_server(tmp_path: Path):
    server = NatsServer(tmp_path)
    connecting = asyncio.create_task(connection.connect(server.url, "x", wait=True))
    done, _ = await asyncio.wait({connecting}, timeout=0.1)
    assert not done
    try:
        server.start()
        client = await asyncio.wait_for(connecting, DEADLINE_S)
        assert client.is_connected
        await client.close()
    finally:
        server.kill()


async def test_bounds_follow_their_settings_and_an_operators_stays_until_they_change(
    client: Client, root: str, caplog: pytest.LogCaptureFixture
):
    js = client.jetstream()

    async def bounds(stream: str) -> tuple[int, float]:
        config = (await js.stream_info(streams.stream_name(root, stream))).config
        return config.max_bytes, config.max_age

    await streams.ensure(js, root)
    default = streams.Bounds()
    assert await bounds(streams.DEAD) == (default.dead_bytes, default.dead_age_s)
    assert await bounds(streams.AUDIT) == (default.audit_bytes, default.audit_age_s)
    assert await bounds(streams.EVENTS_IN) == (-1, default.events_age_s)
    assert await bounds(streams.SIGNALS) == await bounds(streams.OBSERVATIONS) == (-1, 0)

    config = (await js.stream_info(streams.stream_name(root, streams.DEAD))).config
    await js.update_stream(config.evolve(max_bytes=4096, max_age=600.0))
    await streams.ensure(js, root)
    assert await bounds(streams.DEAD) == (4096, 600.0)
    assert not caplog.records

    wanted = streams.Bounds(audit_bytes=2**27, audit_age_s=3600.0, dead_bytes=2**21, events_age_s=3600.0)
    for _ in range(2):  # the second time nothing is left to do
        caplog.clear()
        await streams.ensure(js, root, bounds=wanted)
        assert await bounds(streams.AUDIT) == (2**27, 3600.0)
        assert await bounds(streams.DEAD) == (2**21, 600.0)  # only the setting that has changed
        assert await bounds(streams.EVENTS_IN) == (-1, 3600.0)
    assert not caplog.records
    for other in streams.definitions(root):
        await js.delete_stream(str(other.name))


async def test_a_stream_from_before_bounds_were_settings(client: Client, root: str):
    js = client.jetstream()
    for config in streams.definitions(root):
        old = {"penstock-definition": "3"}
        bounds = {"max_bytes": 4096 if "DEAD" in str(config.name) else None, "max_age": None}
        await js.add_stream(config.evolve(metadata=old, **bounds))
    await streams.ensure(js, root)
    audit = (await js.stream_info(streams.stream_name(root, streams.AUDIT))).config
    dead = (await js.stream_info(streams.stream_name(root, streams.DEAD))).config
    assert (audit.max_bytes, dead.max_bytes) == (streams.Bounds.audit_bytes, 4096)
    for other in streams.definitions(root):
        await js.delete_stream(str(other.name))
