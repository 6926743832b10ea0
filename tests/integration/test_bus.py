"""The bus on a real nats-server: endpoints, discovery, hints, streams, consumers, connections."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats.js.api
import pytest
from msgspec import msgpack
from nats.aio.client import Client
from nats.micro.service import ServiceInfo

from penstock import errors, verbs
from penstock.bus import connection, streams
from penstock.bus.consumer import ACK, Ack, Consumer, Dead, Outcome, Retry
from penstock.bus.endpoints import Call, Endpoints, Handler, parked
from penstock.bus.hints import Hints
from penstock.errors import PenstockError
from penstock.ids import uuid7
from servers import NatsServer, nats_server

DEADLINE_S = 15.0
ID = "3-0192e4a0-0000-7000-8000-000000000000"
FENCE = {"execution_id": ID, "attempt_index": 0, "lease_id": "l", "lease_epoch": 1}


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    with nats_server() as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    client = await connection.connect(url, "test")
    yield client
    await client.close()


@pytest.fixture
def root() -> str:
    """Each test has its own root: its own subjects and streams."""
    return "t" + uuid7().replace("-", "")


@asynccontextmanager
async def serving(
    client: Client, root: str, handlers: dict[verbs.Verb, Handler], **options
) -> AsyncIterator[Endpoints]:
    endpoints = Endpoints(client, "test", handlers, root=root, **options)
    await endpoints.start()
    try:
        yield endpoints
    finally:
        await endpoints.drain(5)


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.005)


async def ask(client: Client, root: str, verb: verbs.Verb, body: object) -> tuple[object, dict[str, str]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    msg = await client.request(verb.subject(root), data, timeout=5)
    return json.loads(msg.data), msg.headers or {}


async def echo(call: Call) -> list[dict]:
    return [{"state": item.lease_id} for item in call.items]


# --- endpoints


async def test_single_batch_and_invalid(client: Client, root: str):
    calls: list[Call] = []
    counted: list[tuple] = []

    async def handler(call: Call) -> list:
        calls.append(call)
        return await echo(call)

    async with serving(
        client, root, {verbs.LEASE_START: handler}, observer=lambda *what: counted.append(what)
    ):
        assert (await ask(client, root, verbs.LEASE_START, FENCE))[0] == {"state": "l"}
        body, headers = await ask(client, root, verbs.LEASE_START, {**FENCE, "nope": 1})
        assert body["error"]["detail"] == {"field": "nope"}
        assert headers["Nats-Service-Error-Code"] == "400"
        body, headers = await ask(client, root, verbs.LEASE_START, [FENCE, {}, {**FENCE, "lease_id": "m"}])
        assert [list(item) for item in body] == [["ok"], ["error"], ["ok"]]
        assert body[2] == {"ok": {"state": "m"}}
        assert not headers
        assert (await ask(client, root, verbs.LEASE_START, b"[]"))[0] == []
        assert (await ask(client, root, verbs.LEASE_START, b"nonsense"))[1][
            "Nats-Service-Error-Code"
        ] == "400"
    assert [(len(call.items), call.single, bool(call.reply_to)) for call in calls] == [
        (1, True, True),
        (2, False, True),
    ]
    assert [(n, wrong) for _, n, wrong, _ in counted] == [(1, 0), (1, 1), (3, 1), (0, 0), (1, 1)]


async def test_singles_of_one_tick_are_merged(client: Client, root: str):
    sizes: list[int] = []

    async def handler(call: Call) -> list:
        sizes.append(len(call.items))
        return await echo(call)

    async with serving(client, root, {verbs.LEASE_START: handler}):
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(ask(client, root, verbs.LEASE_START, {**FENCE, "lease_id": f"l{n}"}))
                for n in range(200)
            ]
        assert [task.result()[0] for task in asked] == [{"state": f"l{n}"} for n in range(200)]
    assert sum(sizes) == 200
    assert len(sizes) < 50


async def test_a_slow_handler_stands_in_nobodys_way(client: Client, root: str):
    release = asyncio.Event()

    async def waits(call: Call) -> list:
        if call.items[0].wait_ms == 0:
            return [{"state": "quick"}] * len(call.items)
        await release.wait()
        return [{"state": "slow"}] * len(call.items)

    async with serving(client, root, {verbs.EXECUTION_WAIT: parked(waits)}):
        slow = [
            asyncio.create_task(ask(client, root, verbs.EXECUTION_WAIT, {"execution_id": ID}))
            for _ in range(3)
        ]
        quick = {"execution_id": ID, "wait_ms": 0}
        assert (await ask(client, root, verbs.EXECUTION_WAIT, quick))[0] == {"state": "quick"}
        release.set()
        assert [(await task)[0] for task in slow] == [{"state": "slow"}] * 3


async def test_errors_of_a_handler(client: Client, root: str, caplog: pytest.LogCaptureFixture):
    async def handler(call: Call) -> list:
        match call.items[0].lease_id:
            case "typed":
                raise errors.make("valkey_unavailable")
            case "bug":
                raise RuntimeError("the secret is swordfish")
            case "short":
                return []
            case "strange":
                return [object()]
        return [errors.make("stale_lease")]

    async with serving(client, root, {verbs.LEASE_START: handler}):
        for lease, code in [
            ("typed", "valkey_unavailable"), ("bug", "internal"), ("short", "internal"),
            ("strange", "internal"), ("x", "stale_lease"),
        ]:  # fmt: skip
            body, headers = await ask(client, root, verbs.LEASE_START, {**FENCE, "lease_id": lease})
            assert body["error"]["code"] == code
            assert headers["Nats-Service-Error-Code"]
            assert "swordfish" not in json.dumps(body)
            assert "Traceback" not in json.dumps(body)
    assert "swordfish" in caplog.text  # the log has the traceback


async def test_none_leaves_the_answer_to_somebody_else(client: Client, root: str):
    async def handler(call: Call) -> None:
        await client.publish(call.reply_to, b'{"tasks":[]}')

    async with serving(client, root, {verbs.WORK_NEXT: handler}):
        assert (await ask(client, root, verbs.WORK_NEXT, {"worker_id": "w"}))[0] == {"tasks": []}


async def test_a_request_without_a_reply_subject(client: Client, root: str):
    seen: list[str] = []

    async def handler(call: Call) -> list:
        seen.extend(item.lease_id for item in call.items)
        return await echo(call)

    async with serving(client, root, {verbs.LEASE_START: handler}):
        await client.publish(verbs.LEASE_START.subject(root), json.dumps(FENCE).encode())
        await client.publish(verbs.LEASE_START.subject(root), b"nonsense")
        assert (await ask(client, root, verbs.LEASE_START, {**FENCE, "lease_id": "m"}))[0] == {"state": "m"}
    assert seen == ["l", "m"]


async def test_a_payload_over_the_limit_and_a_reply_over_nats(client: Client, root: str):
    async def handler(call: Call) -> list:
        return [{"items": [{"input": '"' + "x" * 1_000_000 + '"'}] * call.items[0].limit, "cursor": None}]

    async def created(call: Call) -> list:
        return [{"execution_id": ID, "state": "ready"}]

    handlers = {verbs.EXECUTION_LIST: handler, verbs.EXECUTION_CREATE: created}
    async with serving(client, root, handlers, max_payload_bytes=1000):
        body, headers = await ask(client, root, verbs.EXECUTION_LIST, {"limit": 10})
        assert body["error"]["code"] == "payload_too_large"
        assert headers["Nats-Service-Error-Code"] == "413"
        assert len((await ask(client, root, verbs.EXECUTION_LIST, {"limit": 5}))[0]["items"]) == 5
        body, _ = await ask(client, root, verbs.EXECUTION_CREATE, {"kind": "a", "input": "x" * 1000})
        assert body["error"]["detail"] == {"field": "input", "limit": 1000, "size": 1002}


async def test_drain_answers_what_was_taken(client: Client, url: str, root: str):
    async def handler(call: Call) -> list:
        await asyncio.sleep(0.05)
        return await echo(call)

    caller = await connection.connect(url, "caller")
    async with serving(client, root, {verbs.LEASE_START: handler}) as endpoints:
        asked = [asyncio.create_task(ask(caller, root, verbs.LEASE_START, FENCE)) for _ in range(500)]
        await until(lambda: endpoints.in_flight > 0)
        await endpoints.drain()
        assert endpoints.in_flight == 0
        answers = await asyncio.gather(*asked, return_exceptions=True)
        # Answered, or told at once that nobody took it: never left waiting.
        assert {type(answer) for answer in answers} <= {tuple, nats.errors.NoRespondersError}
        with pytest.raises(nats.errors.NoRespondersError):
            await ask(caller, root, verbs.LEASE_START, FENCE)
    await caller.close()


async def test_drain_cancels_what_does_not_end(client: Client, root: str):
    async def handler(call: Call) -> list:
        await asyncio.Event().wait()
        return []

    async with serving(client, root, {verbs.EXECUTION_WAIT: parked(handler)}) as endpoints:
        asked = asyncio.create_task(ask(client, root, verbs.EXECUTION_WAIT, {"execution_id": ID}))
        await until(lambda: endpoints.in_flight == 1)
        await endpoints.drain(0.05)
        assert (await asked)[0]["error"]["code"] == "timeout"


async def test_discovery(client: Client, root: str):
    handlers = {verbs.LEASE_START: echo, verbs.WORK_NEXT: echo}
    async with serving(client, root, handlers, instance="i-1", version="1.2.3"):
        msg = await client.request(f"$SRV.INFO.{root}-test", timeout=2)
        info = ServiceInfo.from_dict(json.loads(msg.data))
        assert (info.name, info.id, info.version) == (f"{root}-test", "i-1", "1.2.3")
        start = info.endpoints[0]
        assert (start.name, start.subject) == ("lease_start", f"{root}.v1.lease.start")
        assert start.metadata["batch"] == "true"
        assert info.endpoints[1].metadata["batch"] == "false"
        schema = json.loads(start.metadata["request_schema"])
        assert "lease_epoch" in schema["$defs"]["LeaseStart"]["required"]
        assert "StateReply" in start.metadata["reply_schema"]

        await ask(client, root, verbs.LEASE_START, FENCE)
        await ask(client, root, verbs.LEASE_START, {})
        stats = json.loads((await client.request(f"$SRV.STATS.{root}-test.i-1", timeout=2)).data)
        assert stats["endpoints"][0]["num_requests"] == 2
        assert stats["endpoints"][0]["num_errors"] == 1
        assert stats["endpoints"][0]["last_error"] == "invalid_request"
        assert json.loads((await client.request(f"$SRV.PING.{root}-test", timeout=2)).data)["id"] == "i-1"
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request(f"$SRV.PING.{root}-test", timeout=2)


# --- hints


async def test_hints_of_a_tick_are_one_message(client: Client, root: str):
    hints = Hints(client, root)
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


# --- streams


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
    assert signals.config.retention == nats.js.api.RetentionPolicy.WORK_QUEUE
    assert signals.config.duplicate_window == 120

    await js.publish(f"{root}.audit.default.execution.created.{ID}", b"{}")
    stored = await js.get_msg(audit.config.name, seq=1)
    assert stored.subject == f"{root}.audit.default.execution.created"
    for other in others:
        await other.close()


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


# --- consumers


class Collector:
    """A handler that keeps what it saw, and answers what the message says."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.batches: list[int] = []

    async def __call__(self, messages: list[nats.aio.msg.Msg]) -> list[Outcome]:
        self.batches.append(len(messages))
        return [self._one(msg) for msg in messages]

    def _one(self, msg: nats.aio.msg.Msg) -> Outcome:
        self.seen.append(msg.data)
        if msg.data == b"dead":
            return Dead("never\nwanted")
        if msg.data == b"again" and self.seen.count(b"again") < 3:
            return Retry(0.01)
        if msg.data == b"poison":
            raise errors.make("invalid_token")
        if msg.data == b"bug" and self.seen.count(b"bug") < 4:
            raise RuntimeError("not this time")
        return ACK


@asynccontextmanager
async def consuming(client: Client, root: str, handler=None, **options) -> AsyncIterator[Collector]:
    collector = handler or Collector()
    await streams.ensure(client.jetstream(), root)
    consumer = Consumer(streams.SIGNALS, "router", collector, **options)
    await consumer.start(client, root)
    try:
        yield collector
    finally:
        await consumer.stop()


async def left(client: Client, root: str, stream: str = streams.SIGNALS) -> int:
    info = await client.jetstream().stream_info(streams.stream_name(root, stream))
    return info.state.messages


def is_left(client: Client, root: str, count: int, stream: str = streams.SIGNALS):
    async def check() -> bool:
        return await left(client, root, stream) == count

    return check


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
    assert sorted(took)[25] < 0.1  # a fetch that waits for its batch would take seconds


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
    async with consuming(other, root) as got:  # at once, not after ack_wait
        await until(is_left(client, root, 0))
    assert 0 < len(got.seen) < 10
    await other.close()


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
        for _ in range(8):  # two times ack_wait
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
    for n in range(5):  # what comes later waits for it
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
    """The durable vanishes in the very step that asks it: nothing else would tell for some ten seconds."""
    await streams.ensure(client.jetstream(), root)
    collector = Collector()
    consumer = Consumer(streams.SIGNALS, "router", collector, heartbeat=10.0)
    pull, pulled = consumer._pull, asyncio.Event()  # pyright: ignore[reportPrivateUsage]

    async def pull_and_lose() -> None:
        await pull()
        if not pulled.is_set():
            await client.flush()
            await client.jetstream().delete_consumer(consumer._name, "router")  # pyright: ignore[reportPrivateUsage]
            await until(lambda: consumer._lost)  # pyright: ignore[reportPrivateUsage]
            pulled.set()

    consumer._pull = pull_and_lose  # pyright: ignore[reportPrivateUsage]
    await consumer.start(client, root)
    try:
        await asyncio.wait_for(pulled.wait(), DEADLINE_S)
        await client.jetstream().publish(f"{root}.signal.w.go", b"x")
        await until(is_left(client, root, 0))
        assert collector.seen == [b"x"]
    finally:
        await consumer.stop()


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


# --- connections


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


async def test_dead_letters_are_bounded_and_an_operators_bound_stays(client: Client, root: str):
    js = client.jetstream()
    await streams.ensure(js, root)
    name = streams.stream_name(root, streams.DEAD)
    config = (await js.stream_info(name)).config
    assert (config.max_bytes, config.max_age) == (streams.DEAD_MAX_BYTES, streams.DEAD_MAX_AGE_S)
    await js.update_stream(config.evolve(max_bytes=4096, max_age=600.0))
    await streams.ensure(js, root)
    config = (await js.stream_info(name)).config
    assert (config.max_bytes, config.max_age) == (4096, 600.0)
    for other in streams.definitions(root):
        await js.delete_stream(str(other.name))
