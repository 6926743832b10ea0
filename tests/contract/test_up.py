"""`penstock up` (CONTRACT §7) becomes ready, supervises its processes, and leaves nothing behind."""

import asyncio
import json
import signal
import time
import urllib.request
from pathlib import Path

import nats
import pytest

import commands
from commands import Up, lives
from penstock import Client
from penstock.verbs import SERVICES

TEN_S = 10.0


async def until(holds: object, what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not come about"
        await asyncio.sleep(0.02)


async def test_ready_means_that_every_service_answers(tmp_path: Path) -> None:
    async with Up.open(tmp_path) as up:
        facts = up.facts
        assert set(facts["metrics_urls"]) == set(facts["pids"]) == set(SERVICES)
        for url in facts["metrics_urls"].values():
            page = await asyncio.to_thread(lambda url=url: urllib.request.urlopen(url).read())
            assert b"penstock_" in page
        client = await nats.connect(facts["nats_url"])
        assert client.max_payload == 8 * 2**20
        for service in SERVICES:
            pong = json.loads((await client.request(f"$SRV.PING.penstock-{service}", timeout=TEN_S)).data)
            assert pong["name"] == f"penstock-{service}"
        await client.close()

        doctor = await commands.penstock(
            "doctor", "--nats", facts["nats_url"], "--valkey", facts["valkey_url"], "--json",
            PENSTOCK_VALKEY_PASSWORD_FILE=facts["valkey_password_file"],
        )  # fmt: skip
        failed = [check for check in doctor.json["checks"] if check["ok"] is not True]
        assert doctor.code == 0
        # The version of the machine's own Valkey may have known holes, which is only warned of.
        assert all(check["name"] == "Valkey" and "CVE" in check["advice"] for check in failed)

        pids = up.pids()
        up.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(up.process.wait(), 30) == 0
        assert not [pid for pid in pids if lives(pid)]
        assert not up.ready_file.exists()


async def test_commands_find_it_in_their_directory_and_data_and_ports_stay(tmp_path: Path) -> None:
    async with Up.open(tmp_path) as up:
        first = up.facts
        submitted = await commands.penstock("submit", "a.job", '{"n": 1}', cwd=tmp_path)
        assert submitted.code == 0, submitted.err
    async with Up.open(tmp_path) as up:
        assert (up.facts["nats_url"], up.facts["valkey_url"]) == (first["nats_url"], first["valkey_url"])
        record = await commands.penstock("get", submitted.out.strip(), "--json", cwd=tmp_path)
        assert (record.json["state"], record.json["input"]) == ("ready", {"n": 1})
        verified = await commands.penstock("audit", "verify", cwd=tmp_path)
        assert verified.code == 0, verified.err


async def test_a_killed_service_and_a_killed_server_come_back(tmp_path: Path) -> None:
    async with Up.open(tmp_path) as up:
        before = up.facts
        commands.kill(before["pids"]["scheduler"])
        await until(lambda: up.facts["pids"]["scheduler"] != before["pids"]["scheduler"], "the scheduler")
        commands.kill(before["server_pids"]["valkey-server"])
        await until(
            lambda: (
                up.facts["server_pids"]["valkey-server"] not in (None, before["server_pids"]["valkey-server"])
            ),
            "Valkey",
        )
        async with await Client.connect(before["nats_url"]) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    run = await client.submit("a.job", 1)
                    break
                except Exception:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
            assert (await run.get()).state == "ready"
        same = {name: pid for name, pid in before["pids"].items() if name != "scheduler"}
        assert same.items() <= up.facts["pids"].items()


async def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    async with Up.open(tmp_path) as up:
        before = up.facts["pids"]["scheduler"]
        up_file = up.data / "up.json"
        up_file.unlink()
        up_file.mkdir()  # nothing can be written there, as on a full disk
        commands.kill(before)
        ready = up.data / "run" / "scheduler.json"
        await until(
            lambda: ready.exists() and json.loads(ready.read_text())["pid"] != before, "the scheduler"
        )
        assert up.facts["pids"]["scheduler"] == before and up.process.returncode is None
        up_file.rmdir()
        await until(lambda: up.facts["pids"]["scheduler"] != before, "what is true now")
        assert json.loads(up_file.read_text())["pids"] == up.facts["pids"]


async def test_a_killed_supervisor_leaves_no_process_behind(tmp_path: Path) -> None:
    async with Up.open(tmp_path) as up:
        pids = up.pids()
        assert all(lives(pid) for pid in pids)
        await up.kill()
        await until(lambda: not [pid for pid in pids if lives(pid)], "the end of its children")
    async with Up.open(tmp_path, wait=False) as up:  # its data directory can be used again at once
        await until(lambda: up.ready_file.exists() and up.facts["pid"] == up.process.pid, "the next one")


async def test_a_second_up_on_the_same_data_is_refused(tmp_path: Path) -> None:
    async with Up.open(tmp_path) as up:
        said = await commands.penstock("up", "--data", str(up.data))
        assert said.code == 1 and f"(pid {up.process.pid})" in said.err and "Traceback" not in said.err
        assert up.ready_file.exists()


async def test_it_uses_the_servers_that_are_named(tmp_path: Path, nats_url: str, valkey_url: str) -> None:
    named = ("--nats", nats_url, "--valkey", valkey_url, "--root", f"up{time.time_ns()}")
    async with Up.open(tmp_path, *named, "--scale", "scheduler=2", "--partitions", "2") as up:
        facts = up.facts
        assert (facts["nats_url"], facts["valkey_url"]) == (nats_url, valkey_url)
        assert facts["server_pids"] == {} and "scheduler-2" in facts["pids"]
        # A command in this directory speaks to this deployment, not to another one on the same NATS.
        submitted = await commands.penstock("submit", "a.job", cwd=tmp_path)
        assert submitted.code == 0, submitted.err
        async with await Client.connect(nats_url, root=facts["root"]) as client_here:
            assert (await client_here.get(submitted.out.strip())).kind == "a.job"
    client = await nats.connect(nats_url)
    js = client.jetstream()
    for stream in await js.streams_info():
        if (stream.config.name or "").startswith("UP"):
            await js.delete_stream(stream.config.name or "")
    await client.close()


@pytest.mark.parametrize("option", ["--nats-port", "--valkey-port"])
async def test_a_taken_port_is_said(tmp_path: Path, option: str, nats_url: str) -> None:
    port = nats_url.rsplit(":", 1)[1]
    said = await commands.penstock("up", "--data", str(tmp_path / "data"), option, port)
    assert (said.code, said.err) == (1, f"penstock: port {port} is taken\n")


async def test_partitions_are_one_or_more(tmp_path: Path) -> None:
    said = await commands.penstock("up", "--data", str(tmp_path / "data"), "--partitions", "0")
    assert said.code == 2 and "--partitions" in said.err and not (tmp_path / "data").exists()


async def test_stopped_while_it_starts(tmp_path: Path) -> None:
    async with Up.open(tmp_path, wait=False) as up:
        await until(lambda: "nats-server" in up.log, "the first server")
        up.process.terminate()
        assert await asyncio.wait_for(up.process.wait(), 30) == 0
    assert not up.ready_file.exists()


async def test_the_number_of_nodes_stays(tmp_path: Path) -> None:
    said = await commands.penstock("up", "--data", str(tmp_path), "--nodes", "2")
    assert said.code == 2
    assert "1, 3 or more" in said.err
    said = await commands.penstock("up", "--data", str(tmp_path), "--nodes", "3", "--nats-port", "1")
    assert "name no other server or port" in said.err
    (tmp_path / "valkey.conf").touch()
    said = await commands.penstock("up", "--data", str(tmp_path), "--nodes", "3")
    assert said.code == 1
    assert "holds a deployment of 1 node and keeps that number" in said.err
