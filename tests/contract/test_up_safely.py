"""`penstock up` keeps to itself what is secret, and ends with the reason when it cannot start."""

import asyncio
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

import commands
from commands import Up
from penstock.local import cluster, own_servers, servers, services
from penstock.local.data_dir import DataDir
from penstock.local.deployment import Deployment
from penstock.local.options import Options
from penstock.local.own_servers import OwnServers
from penstock.local.problems import Problem
from penstock.local.supervise import Child
from penstock.testing.servers import ValkeyServer, running
from servers import free_port

DEADLINE_S = 60.0


class Quiet:
    """A status that keeps what is said."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def doing(self, text: str) -> None:
        self.done.append(text)

    def say(self, text: str) -> None:
        pass

    def good(self, name: str, text: str) -> None:
        pass

    def bad(self, name: str, text: str) -> None:
        pass


def open_to_others(folder: Path) -> dict[str, str]:
    """Return what others may read, write or enter, with its mode."""
    paths = [folder, *folder.rglob("*")]
    return {
        str(path): oct(path.stat().st_mode) for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077
    }


def seen_by_ps(secret: str) -> list[str]:
    """Return the command lines and environments on this machine that have the secret in them."""
    found: list[str] = []
    for process in Path("/proc").iterdir():
        for file in (process / "cmdline", process / "environ"):
            try:
                if secret.encode() in file.read_bytes():
                    found.append(str(file))
            except OSError:
                continue
    return found


async def test_the_data_directory_and_valkey_are_its_users_alone(tmp_path: Path) -> None:
    data = tmp_path / ".penstock"
    for folder in (data, data / "logs"):  # from an earlier version, open to others
        folder.mkdir(mode=0o755)
    for file in ("lock", "ports.json", "logs/scheduler.log"):
        (data / file).touch()
        (data / file).chmod(0o644)
    async with Up.open(tmp_path) as up:
        submitted = await commands.penstock("submit", "a.job", '{"n": 1}', cwd=tmp_path)
        assert submitted.code == 0, submitted.err
        facts = up.facts
        assert open_to_others(data) == {} and not up.ready_file.stat().st_mode & 0o077
        said = "NATS is open to every user of this machine, as a development server's is (--secure closes it)"
        assert f"{said}: {facts['nats_url']}" in up.log

        assert facts["valkey_password_file"] == str(data / "valkey.password")
        secret = (data / "valkey.password").read_text().strip()
        assert len(secret) == 64
        stranger = Redis.from_url(facts["valkey_url"])
        with pytest.raises(AuthenticationError):
            await stranger.dbsize()
        await stranger.aclose()
        owner = Redis.from_url(facts["valkey_url"], password=secret)
        assert await owner.dbsize()
        await owner.aclose()

        doctor = await commands.penstock("doctor", cwd=tmp_path)
        assert doctor.code == 0, doctor.out
        where = {
            path.name for path in data.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
        }
        assert where == {"valkey.password", "valkey.conf"}
        assert secret not in doctor.out + doctor.err + up.log + up.ready_file.read_text()
        assert seen_by_ps(secret) == []


async def test_a_setting_that_every_service_would_refuse(tmp_path: Path) -> None:
    said = await commands.penstock("up", "--data", str(tmp_path / "data"), PENSTOCK_RETENTION="5")
    assert said.code == 1 and not (tmp_path / "data").exists()
    assert said.err == "penstock: PENSTOCK_RETENTION is no setting: did you mean PENSTOCK_RETENTION_MS?\n"


async def test_a_library_that_does_not_load_ends_it(tmp_path: Path, nats_url: str) -> None:
    with running(ValkeyServer) as server:
        valkey = Redis.from_url(server.url)
        await valkey.function_load(
            "#!lua name=other\nredis.register_function('penstock_scheduler', function() return 1 end)"
        )
        await valkey.aclose()
        said = await commands.penstock(
            "up", "--data", str(tmp_path / "data"), "--nats", nats_url, "--valkey", server.url
        )
    assert said.code == 1 and "Lua library cannot be loaded" in said.err and "already exists" in said.err
    assert "Traceback" not in said.out + said.err


async def test_servers_that_never_answer_end_it(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "READY_PATIENCE_S", 1.0)
    options = Options(tmp_path / "data", nats_url=f"nats://127.0.0.1:{free_port()}", valkey_url=valkey_url)
    with pytest.raises(Problem, match=r"is not ready after 1 s, nor are others: ") as caught:
        await asyncio.wait_for(Deployment(options, Quiet()).run(), DEADLINE_S)
    assert str(tmp_path / "data" / "logs") in str(caught.value)


async def test_a_port_that_is_taken_while_a_first_cluster_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start tries other ports; later ones keep theirs, for the nodes know one another by them."""
    data = DataDir(tmp_path / "data")
    options = Options(data.path, nodes=3, durability="process")
    plan, taken = cluster.plan, ExitStack()

    def plan_too_late(*given: Any, **named: Any) -> cluster.Plan:
        made = plan(*given, **named)
        if not planned:
            taken.enter_context(socket.create_server(("127.0.0.1", data.ports()["nats-3-peers"])))
        planned.append(data.ports())
        return made

    monkeypatch.setattr(cluster, "plan", plan_too_late)
    with data.held(), taken:
        planned: list[dict[str, int]] = []
        own = OwnServers(options, data, None, Quiet(), lambda child, code: None)
        await own.start()
        await own.stop()
        assert len(planned) == 2 and not set(planned[0].values()) & set(planned[1].values())
        planned.clear()
        own = OwnServers(options, data, None, Quiet(), lambda child, code: None)
        with pytest.raises(Problem, match="nats-3 does not start"):
            await own.start()
        await own.stop()
        assert len(planned) == 1


async def test_a_service_that_is_killed_again_and_again_ends_it(
    tmp_path: Path, nats_url: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = Child._spawn

    async def doomed(child: Child) -> None:
        await spawn(child)
        if child.name == "scheduler":
            os.kill(child.pid or 0, 9)

    monkeypatch.setattr(Child, "_spawn", doomed)
    options = Options(tmp_path / "data", nats_url=nats_url, valkey_url=valkey_url, root="doomed")
    with pytest.raises(Problem, match="scheduler: killed by SIGKILL"):
        await asyncio.wait_for(Deployment(options, Quiet()).run(), DEADLINE_S)


async def test_a_valkey_that_reads_its_data_for_long_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_servers, "PATIENCE_S", 0.5)
    data = DataDir(tmp_path)
    (tmp_path / "logs").mkdir()
    server = servers.valkey(data, servers.choose_port(0, None), "process", password="secret")
    child = Child(server.name, server.command, data.log("valkey"))
    await child.start()
    options, status = Options(tmp_path), Quiet()
    own: Any = OwnServers(options, data, None, status, lambda _child, _code: None)
    start = own._answering
    assert await asyncio.wait_for(start(server, child), DEADLINE_S)
    async with Redis.from_url(server.url, password="secret") as client:
        pipeline = client.pipeline(transaction=False)
        for n in range(15_000):
            pipeline.set(f"k{n}", n)
        await pipeline.execute()
    await child.stop(DEADLINE_S)
    with (tmp_path / "valkey.conf").open("a") as conf:
        conf.write("key-load-delay 100\n")  # microseconds for each command: more than 1.5 s in all
    child = Child(server.name, server.command, data.log("valkey"))
    await child.start()
    try:
        assert await asyncio.wait_for(start(server, child), DEADLINE_S)
        assert any("reads its data" in text for text in status.done)
    finally:
        await child.stop(DEADLINE_S)
