"""A service's life on a real nats-server and a real Valkey: start, hints, ownership, outages, drain."""

import asyncio
import json
import logging
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import clean_environment
from penstock import errors
from penstock.bus import connection
from penstock.bus.calls import Call
from penstock.ids import uuid7
from penstock.runtime import Context, Running, Service, Settings, membership, start
from penstock.runtime.membership import owner
from penstock.verbs import EXECUTION_GET, Verb
from servers import NatsServer, ValkeyServer, free_port, nats_server, valkey_server

DEADLINE_S = 60.0
ID = "0-0192e4a0-0000-7000-8000-000000000000"
SERVICE = """
from penstock.runtime import Service, run
run("scheduler", lambda context: Service("scheduler"))
"""


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    with nats_server() as nats, valkey_server() as valkey:
        yield nats, valkey


@pytest.fixture
def settings(urls: tuple[str, str]) -> Callable[..., Settings]:
    """Return a function that makes the settings of one deployment; each test has its own root."""
    root = "t" + uuid7().replace("-", "")

    def make(**more: Any) -> Settings:
        return Settings(nats_url=urls[0], valkey_url=urls[1], root=root, **more)

    return make


@pytest.fixture
async def run() -> AsyncIterator[Callable[..., Any]]:
    running: list[Running] = []

    async def begin(name: str, build: Any, settings: Settings) -> Running:
        running.append(await start(name, build, settings))
        return running[-1]

    yield begin
    for each in running:
        await each.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.005)


def environ_of(nats_url: str, valkey_url: str, ready: Path) -> dict[str, str]:
    """Return the environment of a service's process."""
    return {
        **clean_environment(),
        "PENSTOCK_NATS_URL": nats_url,
        "PENSTOCK_VALKEY_URL": valkey_url,
        "PENSTOCK_ROOT": "t" + uuid7().replace("-", ""),
        "PENSTOCK_READY_FILE": str(ready),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def nothing(name: str) -> Callable[[Context], Service]:
    return lambda context: Service(name)


async def http(url: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def test_serves_counts_and_drains(settings: Any, run: Any) -> None:
    entered, go = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    def build(context: Context) -> Service:
        async def get(call: Call[Any]) -> list[Any]:
            entered.set()
            await go.wait()
            return [errors.make("execution_not_found") for _ in call.items]

        async def loop() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                order.append("loop")

        async def drain() -> None:
            order.append("drain")
            go.set()

        async def close() -> None:
            await context.machine.ping()  # everything is still there
            order.append("close")

        endpoints: dict[Verb[Any, Any], Any] = {EXECUTION_GET: get}
        return Service("scheduler", endpoints, background=[loop], drain=drain, close=close)

    running = await run("scheduler", build, settings())
    base = running.metrics_url.removesuffix("/metrics")
    assert await http(f"{base}/readyz") == (200, '{"ready": true, "missing": []}')
    assert await http(f"{base}/healthz") == (200, "alive\n")
    assert (await http(f"{base}/nothing"))[0] == 404

    caller = await connection.connect(running.settings.nats_url, "test")
    request = json.dumps({"execution_id": ID}).encode()
    asking = asyncio.create_task(caller.request(EXECUTION_GET.subject(running.settings.root), request, 10))
    await entered.wait()
    stopping = asyncio.create_task(running.stop())
    reply = await asking  # a request under way is answered before the service goes
    await stopping
    await caller.close()
    assert b"execution_not_found" in reply.data
    assert order == ["drain", "loop", "close"]
    numbers = running.metrics.exposition().decode()
    of = 'component="scheduler"'
    assert f'penstock_requests_total{{{of},outcome="not_found",verb="execution.get"}} 1.0' in numbers
    assert f'penstock_errors_total{{code="execution_not_found",{of}}} 1.0' in numbers


async def test_a_failing_task_and_a_failing_loop_do_no_harm(
    settings: Any, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def build(context: Context) -> Service:
        async def loop() -> None:
            tries.append(1)
            raise RuntimeError("loop")

        async def task() -> None:
            raise RuntimeError("task")

        context.spawn(task())
        return Service("scheduler", background=[loop])

    with caplog.at_level(logging.INFO, "penstock"):
        await run("scheduler", build, settings())
        await until(lambda: len(tries) >= 2)
    assert "a background task failed" in caplog.text
    assert "a loop failed" in caplog.text


async def test_hints_reach_whoever_waits(settings: Any, run: Any) -> None:
    heard: list[tuple[str, int, Any]] = []

    def scheduler(name: str) -> Callable[[Context], Service]:
        def build(context: Context) -> Service:
            for topic in ("ready", "done"):
                context.listen(
                    topic, lambda p, value, topic=topic: heard.append((f"{name}:{topic}", p, value))
                )
            return Service("scheduler")

        return build

    quiet = settings(sweep_ms=60_000, partitions=2)
    one = await run("scheduler", scheduler("one"), quiet)
    keeper = await run("lease-keeper", nothing("lease-keeper"), settings(sweep_ms=60_000, partitions=2))

    keeper.context.wakes.route(1, {"ready": {"default": 1}, "unknown to this version": 1})
    await until(lambda: heard == [("one:ready", 1, {"default": 1})])
    heard.clear()
    one.context.wakes.route(0, {"done": [ID]})  # a service hears its own hint at once, and only once
    assert heard == [("one:done", 0, [ID])]
    heard.clear()

    two = await run("scheduler", scheduler("two"), settings(sweep_ms=60_000, partitions=2))
    await until(lambda: len(one.context.membership.members) == 2)
    one.context.wakes.route(0, {"done": [ID]})
    await until(lambda: len(heard) == 2)
    assert heard == [("one:done", 0, [ID]), ("two:done", 0, [ID])]

    # Only the instance that owns a partition looks at a due time there.
    for partition in (0, 1):
        mine = next(each for each in (one, two) if partition in each.context.membership.owned())
        await until(lambda mine=mine: mine.context.due.slices >= 1)
        before = mine.context.due.slices
        keeper.context.wakes.route(partition, {"due": {"scheduler": int(keeper.context.due.clock.now())}})
        await until(lambda mine=mine, before=before: mine.context.due.slices > before)


async def test_a_cancellation_is_pushed_to_its_worker(settings: Any, run: Any) -> None:
    running = await run("cancel-reconciler", nothing("cancel-reconciler"), settings())
    worker = await connection.connect(running.settings.nats_url, "worker")
    inbox = await worker.subscribe(f"{running.settings.root}.worker.w1")
    await worker.flush()
    running.context.wakes.route(0, {"cancel": [["w1", ID, "l1"]]})
    message = await inbox.next_msg(DEADLINE_S)
    await worker.close()
    assert json.loads(message.data) == {"type": "cancel", "execution_id": ID, "lease_id": "l1"}


async def test_instances_share_the_partitions(
    settings: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "FORGET_S", 3600.0)  # only a goodbye tells the others
    running = [
        await run("lease-keeper", nothing("lease-keeper"), settings(partitions=16, instance=f"i{n}"))
        for n in range(3)
    ]
    await until(lambda: all(len(each.context.membership.members) == 3 for each in running))
    owned = [each.context.membership.owned() for each in running]
    assert sorted(partition for each in owned for partition in each) == list(range(16))
    assert sum(each.context.membership.is_leader() for each in running) == 1
    await running[0].stop()
    await until(lambda: all(len(each.context.membership.members) == 2 for each in running[1:]))
    left = [each.context.membership.owned() for each in running[1:]]
    assert sorted(partition for each in left for partition in each) == list(range(16))
    for before, after in zip(owned[1:], left, strict=True):
        assert before <= after  # only the stopped instance's partitions moved


async def test_the_partitions_of_a_killed_instance_are_taken_over(
    settings: Any, run: Any, tmp_path: Path
) -> None:
    survivor = await run("scheduler", nothing("scheduler"), settings(partitions=16))
    mine, ready = survivor.settings, tmp_path / "ready.json"
    environ = environ_of(mine.nats_url, mine.valkey_url, ready)
    environ |= {"PENSTOCK_ROOT": mine.root, "PENSTOCK_PARTITIONS": "16"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, env=environ)
    try:
        await until(lambda: len(survivor.context.membership.members) == 2)
        assert len(survivor.context.membership.owned()) < 16
    finally:
        process.kill()  # no goodbye
        await process.wait()
    await until(lambda: len(survivor.context.membership.owned()) == 16)


def test_rendezvous_moves_only_what_it_must() -> None:
    everyone = frozenset(f"instance-{n}" for n in range(5))
    keys = [str(n) for n in range(1000)]
    before = {key: owner(everyone, key) for key in keys}
    assert all(100 < list(before.values()).count(instance) < 300 for instance in everyone)
    gone = "instance-3"
    for key in keys:
        assert owner(everyone - {gone}, key) == before[key] or before[key] == gone


async def test_goes_on_after_valkey_and_nats_were_away(tmp_path: Path, run: Any) -> None:
    folders = [tmp_path / "nats", tmp_path / "valkey"]
    for folder in folders:
        folder.mkdir()
    nats, valkey = NatsServer(folders[0]), ValkeyServer(folders[1])
    try:
        starting = asyncio.create_task(
            run("scheduler", nothing("scheduler"), Settings(nats_url=nats.url, valkey_url=valkey.url))
        )
        await asyncio.to_thread(nats.start)  # the start order does not matter: here the service starts first
        await asyncio.to_thread(valkey.start)
        running = await starting
        for server, name in ((valkey, "valkey"), (nats, "nats")):
            server.kill()
            await until(lambda name=name: running.health.missing() == [name])
            await asyncio.to_thread(server.start)
            await until(lambda: running.health.ready)
        await running.stop()
    finally:
        nats.kill()
        valkey.kill()


async def test_a_connection_closed_for_good_ends_the_process(urls: tuple[str, str], tmp_path: Path) -> None:
    """nats-py reconnects when a connection is lost, but not when the server says that there are too many."""
    ready = tmp_path / "ready.json"
    nats = NatsServer(tmp_path)
    nats.start()
    environ = environ_of(nats.url, urls[1], ready)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, env=environ, stderr=asyncio.subprocess.PIPE
    )
    try:
        await until(lambda: ready.exists() or process.returncode is not None)
        nats.turn_clients_away()
        _, stderr = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
        nats.kill()
    assert process.returncode == 1
    assert not ready.exists()
    text = stderr.decode()
    last = json.loads(text.splitlines()[-1])
    assert (last["level"], last["event"]) == ("error", "NATS is lost; ending, to be started again")
    assert "maximum connections exceeded" in last["reason"]
    assert "Traceback" not in text


async def test_a_process_tells_when_it_is_ready_and_drains_at_sigterm(
    urls: tuple[str, str], tmp_path: Path
) -> None:
    ready = tmp_path / "ready.json"
    environ = environ_of(urls[0], urls[1], ready)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, env=environ, stderr=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    try:
        await until(lambda: ready.exists() or process.returncode is not None)
        assert process.returncode is None, (await process.communicate())[1].decode()
        told = json.loads(ready.read_text())
        assert told["service"] == "scheduler"
        assert told["pid"] == process.pid
        status, text = await http(told["metrics_url"])
        assert status == 200
        assert 'penstock_ready{component="scheduler"} 1.0' in text
        process.send_signal(signal.SIGTERM)
        _, stderr = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - nothing is left behind
    events = [json.loads(line)["event"] for line in stderr.decode().splitlines()]
    assert events[-1] == "stopped"
    assert "ready" in events


async def test_what_no_waiting_mends_ends_the_process(urls: tuple[str, str]) -> None:
    environ = {**clean_environment(), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for variables, code, text in (
        ({"PENSTOCK_PARTITIONS": "0"}, 2, "PENSTOCK_PARTITIONS"),
        ({"PENSTOCK_NATS_URL": urls[0], "PENSTOCK_NATS_CREDS": "/nowhere/at.all"}, 1, "credentials"),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVICE, env=environ | variables, stderr=asyncio.subprocess.PIPE
        )
        _, stderr = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == code
        assert text in stderr.decode()
        assert "Traceback" not in stderr.decode()


async def test_sigterm_while_waiting_for_nats_is_heeded() -> None:
    environ = {
        **clean_environment(),
        "PENSTOCK_NATS_URL": f"nats://me:hunter2@127.0.0.1:{free_port()}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, env=environ, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    seen = b""
    async with asyncio.timeout(DEADLINE_S):
        while b"waiting for NATS" not in seen:
            seen += await process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, rest = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0
    assert b"hunter2" not in seen + rest


async def test_a_service_serves_though_its_ready_file_cannot_be_written_yet(
    settings: Any, tmp_path: Path
) -> None:
    mine, ready = settings(), tmp_path / "not there yet" / "ready.json"
    environ = environ_of(mine.nats_url, mine.valkey_url, ready)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVICE,
        env=environ,
        stderr=asyncio.subprocess.STDOUT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            while b"the ready file cannot be written" not in (line := await process.stdout.readline()):
                assert line, "the service has ended"
            ready.parent.mkdir()
            while not ready.exists():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        assert process.returncode is None
        assert list(ready.parent.iterdir()) == [ready]
    finally:
        process.kill()
        await process.wait()
