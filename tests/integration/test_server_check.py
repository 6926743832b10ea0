"""A service refuses at start the servers that it cannot work with, and says what to do; it waits for the others."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from commands import clean_environment
from penstock import versions
from penstock.bus import connection, streams
from penstock.errors import PenstockError
from penstock.local import servers as embedded
from penstock.local.data_dir import DataDir
from penstock.runtime import Service, Settings, SettingsError, start
from penstock.runtime.server_check import UnfitServerError, check_nats, check_valkey
from penstock.store import LibraryError
from penstock.testing.servers import NatsServer, ServerProcess, ValkeyServer, running

DEADLINE_S = 60.0


class ConfiguredValkey(ValkeyServer):
    """A valkey-server with further lines in its configuration."""

    def __init__(self, folder: Path, extra: str) -> None:
        super().__init__(folder)
        with (folder / "valkey.conf").open("a") as conf:
            conf.write(extra)


class BareNats(ServerProcess):
    """A nats-server without JetStream."""

    def __init__(self, folder: Path) -> None:
        port = embedded.choose_port(0, None)
        server = embedded.nats(DataDir(folder), port, "process")
        (folder / "nats.conf").write_text(f'listen: "127.0.0.1:{port}"\n')
        super().__init__(server, folder)


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[str]:
    """A Valkey whose role, users and functions the tests change."""
    with running(ValkeyServer) as server:
        yield server.url


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Any]:
    client = Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


async def refused(**settings: Any) -> str:
    """Start a service that must be refused. Return the reason."""
    with pytest.raises((UnfitServerError, LibraryError, streams.NoRoomError, SettingsError)) as caught:
        async with asyncio.timeout(DEADLINE_S):
            await start("scheduler", lambda context: Service("scheduler"), Settings(**settings))
    return str(caught.value)


async def test_a_replica(nats_url: str, own_valkey: str, valkey_url: str) -> None:
    primary = valkey_url.split("//")[1].split("/")[0]
    async with client_of(own_valkey) as client:
        await client.execute_command("REPLICAOF", *primary.split(":"))
        try:
            why = await refused(nats_url=nats_url, valkey_url=own_valkey)
        finally:
            await client.execute_command("REPLICAOF", "NO", "ONE")
            await client.flushall()
    assert f"it is a replica, which takes no writes: name its primary, {primary}" in why


async def test_one_server_of_a_cluster(nats_url: str) -> None:
    with running(lambda folder: ConfiguredValkey(folder, "cluster-enabled yes\n")) as server:
        why = await refused(nats_url=nats_url, valkey_url=server.url)
    assert "belongs to a cluster" in why and "redis+cluster://" in why


async def test_a_wrong_password(nats_url: str, own_valkey: str, tmp_path: Path) -> None:
    host = own_valkey.removeprefix("redis://")
    async with client_of(own_valkey) as client:
        await client.config_set("requirepass", "right")
        try:
            wrong = await refused(nats_url=nats_url, valkey_url=f"redis://:hunter2@{host}")
            missing = await refused(nats_url=nats_url, valkey_url=own_valkey)
            (tmp_path / "password").write_text("right\n")
            login = Settings(valkey_url=own_valkey, valkey_password_file=str(tmp_path / "password"))
            await check_valkey(login.valkey_login())
        finally:
            async with client_of(f"redis://:right@{host}") as owner:
                await owner.config_set("requirepass", "")
    assert "WRONGPASS" in wrong and "hunter2" not in wrong and f"redis://***@{host}" in wrong
    assert "NOAUTH" in missing and "PENSTOCK_VALKEY_PASSWORD_FILE" in missing


async def test_known_holes_are_warned_of_at_the_start_of_a_process(
    nats_url: str, own_valkey: str, tmp_path: Path
) -> None:
    async with client_of(own_valkey) as client:
        warning = versions.known_holes(*versions.of(await client.info("server")))
    assert await check_valkey(own_valkey) == ([warning] if warning else [])
    ready, variables = tmp_path / "ready.json", {"NATS_URL": nats_url, "VALKEY_URL": own_valkey, "DEV": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "penstock_audit_relay", stderr=asyncio.subprocess.PIPE,
        env={
            **clean_environment(),
            **{f"PENSTOCK_{name}": value for name, value in variables.items()},
            "PENSTOCK_ROOT": "holes",
            "PENSTOCK_READY_FILE": str(ready),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not ready.exists():
                assert process.returncode is None
                await asyncio.sleep(0.02)
        process.terminate()
        _, said = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
    lines = [json.loads(line) for line in said.decode().splitlines()]
    assert [line["event"] for line in lines if line["level"] == "warning"] == ([warning] if warning else [])
    nats = await connection.connect(nats_url, "test")
    for stream in streams.definitions("holes"):
        await nats.jetstream().delete_stream(str(stream.name))
    await nats.close()


async def test_a_user_that_may_not_look_is_only_warned(own_valkey: str) -> None:
    async with client_of(own_valkey) as client:
        await client.execute_command("ACL", "SETUSER", "blind", "on", ">blind", "~*", "+@all", "-info")
    host = own_valkey.removeprefix("redis://")
    assert "may not run INFO" in (await check_valkey(f"redis://blind:blind@{host}"))[0]


async def test_a_library_that_cannot_be_loaded(nats_url: str, own_valkey: str) -> None:
    clash = "#!lua name=other\nredis.register_function('penstock_scheduler', function() return 1 end)"
    async with client_of(own_valkey) as client:
        await client.execute_command("FUNCTION", "FLUSH")  # Penstock's own, of the tests before this one
        await client.function_load(clash)
        try:
            why = await refused(nats_url=nats_url, valkey_url=own_valkey)
        finally:
            await client.execute_command("FUNCTION", "FLUSH")
    assert "cannot be loaded" in why and "penstock_scheduler already exists" in why


async def test_nats_without_jetstream(valkey_url: str) -> None:
    with running(BareNats) as server:
        why = await refused(nats_url=server.url, valkey_url=valkey_url, dev=True)
    assert "it has no JetStream; switch it on in nats-server's configuration" in why


async def test_a_nats_account_without_jetstream(tmp_path: Path) -> None:
    accounts = """
accounts {
    A: { users: [{ user: a, password: a }] }
    B: { jetstream: enabled, users: [{ user: b, password: b }] }
}
"""
    with running(lambda folder: NatsServer(folder, accounts)) as server:
        host = server.url.removeprefix("nats://")
        for user, fits in (("a", False), ("b", True)):
            nats = await connection.connect(f"nats://{user}:{user}@{host}", "test")
            if fits:
                await check_nats(nats, nats.jetstream())
            else:
                with pytest.raises(UnfitServerError, match="switch it on for this account"):
                    await check_nats(nats, nats.jetstream())
            await nats.close()


async def test_a_nats_that_refuses_the_login(valkey_url: str) -> None:
    with running(lambda folder: NatsServer(folder, "authorization { token: right }\n")) as server:
        url = server.url.replace("nats://", "nats://hunter2@")
        with pytest.raises(PenstockError, match="refused the login; check the user, password") as caught:
            await connection.connect(url, "service", wait=True, timeout=0.5)
        assert "hunter2" not in str(caught.value)


async def test_bounds_that_are_larger_than_the_disk(nats_url: str, valkey_url: str) -> None:
    why = await refused(
        nats_url=nats_url, valkey_url=valkey_url, dev=True, root="huge", audit_max_bytes=2**60
    )
    assert "no room for the stream HUGE_AUDIT" in why and "PENSTOCK_AUDIT_MAX_BYTES" in why
    nats = await connection.connect(nats_url, "test")
    for name in (streams.SIGNALS, streams.OBSERVATIONS, streams.EVENTS_IN, streams.DEAD):
        await nats.jetstream().delete_stream(f"HUGE_{name}")
    await nats.close()
