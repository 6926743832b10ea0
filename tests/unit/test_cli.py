"""The command line without servers: arguments, files, child processes, detection."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import commands
from penstock import versions
from penstock.cli import output, top
from penstock.cli.__main__ import main
from penstock.cli.problems import Problem, UsageProblem
from penstock.cli.shell import json_argument
from penstock.local import servers
from penstock.local.data_dir import DataDir, read_json, write_json
from penstock.local.supervise import Child, in_words
from penstock.messages.executions import Lane
from penstock.urls import redact

COMMANDS = [
    [],
    ["up"],
    ["submit"],
    ["get"],
    ["list"],
    ["watch"],
    ["signal"],
    ["cancel"],
    ["doctor"],
    ["flow"],
    ["flow", "create"],
    ["flow", "cancel"],
    ["audit", "tail"],
    ["audit", "verify"],
    ["submit-many"],
    ["why"],
    ["replay"],
    ["worker"],
    ["workers", "list"],
    ["top"],
    ["lane", "pause"],
    ["budget", "create"],
    ["quota", "create"],
    ["schedule", "create"],
]


async def until(holds: object, what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not come about"
        await asyncio.sleep(0.01)


# --- good and bad arguments


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["penstock", *command, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert not ended.value.code and said.startswith("Usage: penstock") and "--nats" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("get",),
        ("submit", "a", "{not json"),
        ("submit", "a", "@/no/such/file"),
        ("submit", "a", "--tag", "novalue"),
        ("submit", "a", "--priority", "high"),
        ("list", "--state", "elsewhere"),
        ("flow", "create", "/no/such/file"),
        ("signal", "t", "n", "--publish"),
        ("up", "--scale", "scheduler=0"),
        ("up", "--durability", "some"),
        ("submit-many", "/no/such/file"),
        ("schedule", "create", "a", "--every", "often"),
        ("budget", "create", "tokens"),
        ("worker", "no_such_module:worker"),
    ],
)
async def test_asked_wrongly_is_exit_code_2_without_a_traceback(arguments: tuple[str, ...]) -> None:
    said = await commands.penstock(*arguments)
    assert said.code == 2
    assert said.err + said.out and "Traceback" not in said.err + said.out


async def test_no_nats_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    port = servers.choose_port(0, None)
    said = await commands.penstock("get", "0-x", "--nats", f"nats://user:secret@127.0.0.1:{port}")
    assert said.code == 1 and said.out == ""
    assert said.err.splitlines()[-1].startswith("penstock: timeout: cannot reach NATS at")
    assert "Traceback" not in said.err and "secret" not in said.err


def test_json_arguments_stay_byte_for_byte(tmp_path: Path) -> None:
    text = '{"b": 1, "a": [], "big": 18446744073709551615}'
    (tmp_path / "input.json").write_text(text + "\n")
    assert bytes(json_argument(text, "INPUT") or b"") == text.encode()
    assert bytes(json_argument(f"@{tmp_path}/input.json", "INPUT") or b"") == text.encode()
    assert bytes(json_argument("-1", "INPUT") or b"") == b"-1"
    assert json_argument(None, "INPUT") is None
    with pytest.raises(UsageProblem, match="needs its quotes"):
        json_argument("hello", "INPUT")


def test_logins_are_not_shown() -> None:
    assert redact("nats://u:p@h:1,nats://t@h:2") == "nats://***@h:1,nats://***@h:2"
    assert redact("nats://h:1") == "nats://h:1"


# --- the data directory


def test_a_data_directory_has_one_user(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from penstock.local.data_dir import DataDir\n"
        "with DataDir(Path(sys.argv[1])).held(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(Problem, match=f"pid {other.pid}"), DataDir(tmp_path).held():
            pass
        other.kill()
    with DataDir(tmp_path).held():
        pass


def test_what_runs_is_known_by_its_process(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    assert data.running() is None
    write_json(data.up_file, {"pid": os.getpid(), "nats_url": "nats://h:1"})
    assert data.running() == {"pid": os.getpid(), "nats_url": "nats://h:1"}
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    write_json(data.up_file, {"pid": gone.pid})
    assert data.running() is None


def test_half_a_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    assert read_json(tmp_path / "x.json") == {}


def test_ports_come_back_unless_taken(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    free = servers.choose_port(0, None)
    data.remember_ports({"nats": free})
    data.remember_ports({"valkey": 1})
    assert data.ports() == {"nats": free, "valkey": 1}
    assert servers.choose_port(0, free) == free
    import socket

    with socket.create_server(("127.0.0.1", free)):
        assert servers.choose_port(0, free) != free
        with pytest.raises(Problem, match="is taken"):
            servers.choose_port(free, None)


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve servers are given their ports before the first of them listens."""
    first = servers.choose_port(0, None)
    monkeypatch.setattr(servers, "PORTS", range(first, first + 1))
    with pytest.raises(Problem, match=f"no port between {first} and {first} is free"):
        servers.choose_port(0, None)


# --- finding servers


def program(folder: Path, name: str, says: str) -> None:
    """Write a program that only prints a version, which is all that detection reads."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def test_valkey_goes_before_redis_and_redis_must_be_7(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match="valkey-server"):
        servers.find_valkey()
    program(tmp_path, "redis-server", "Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc")
    with pytest.raises(Problem, match="redis-server 7"):
        servers.find_valkey()
    program(tmp_path, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc")
    assert servers.find_valkey().version == "7.0.15"
    program(tmp_path, "valkey-server", "Valkey server v=7.2.11 sha=00000000:0 malloc=jemalloc")
    assert servers.find_valkey().name == "redis-server"
    program(tmp_path, "valkey-server", "Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc")
    assert servers.find_valkey().name == "valkey-server"


def test_nats_comes_from_the_wheel() -> None:
    found = servers.find_nats()
    assert not versions.too_old("nats-server", found.version) and found.path.is_absolute()


def test_the_set_up_reads_both_styles_of_package_sources() -> None:
    import importlib.util

    path = Path(__file__).parents[2] / "deploy" / "bootstrap.py"
    spec = importlib.util.spec_from_file_location("bootstrap", path)
    assert spec and spec.loader
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)

    lines = """# a comment
deb-src http://mirror.test/debian bookworm main
deb [arch=amd64,arm64 signed-by=/k.gpg] http://mirror.test/debian bookworm main contrib # more
deb http://mirror.test/debian-security bookworm-security main
"""
    assert list(bootstrap.one_line_sources(lines)) == [
        {
            "uris": "http://mirror.test/debian",
            "suites": "bookworm",
            "components": "main contrib",
            "architectures": "amd64 arm64",
            "signed-by": "/k.gpg",
        },
        {
            "uris": "http://mirror.test/debian-security",
            "suites": "bookworm-security",
            "components": "main",
        },
    ]
    stanzas = """# made by an installer
Types: deb deb-src
# in between
URIs: mirror+file:/etc/apt/mirrors/debian.list
Suites: bookworm
 bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://off.test
Suites: bookworm
"""
    (found,) = bootstrap.deb822_sources(stanzas)
    assert found["uris"] == "mirror+file:/etc/apt/mirrors/debian.list"
    assert found["suites"].split() == ["bookworm", "bookworm-updates"]
    assert found["signed-by"].splitlines()[-1].strip().startswith("-----END")


def test_ages() -> None:
    shown = [output.age(ms) for ms in (None, 40, 90_000, 7_260_000, 200_000_000)]
    assert shown == ["", "0.0 s", "1 min 30 s", "2 h 1 min", "2 d 7 h"]


def test_rates() -> None:
    def lane(**depth: int) -> Lane:
        return Lane(lane="l", status="active", depth=depth)

    before, now = lane(ready=5, completed=10), lane(ready=0, completed=25, failed=1)
    assert top.rates(now, before, 2.0) == ("5.5", "7.5", "0.5")
    assert top.rates(now, None, 2.0) == ("", "", "")
    assert "0" in top.rates(before, now, 2.0)[1], "what retention took away is no negative rate"


# --- child processes


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    ended: list[int] = []
    child = Child("c", ["sleep", "1000"], tmp_path / "log", on_end=lambda _, code: ended.append(code))
    await child.start()
    first = child.pid
    assert first
    commands.kill(first)
    await until(lambda: child.pid not in (None, first), "the restart")
    assert ended == [-9] and in_words(-9) == "killed by SIGKILL"
    second = child.pid
    await child.stop(10)
    assert child.pid is None and second and not commands.lives(second)


async def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True)"
    command = [sys.executable, "-c", f"{stubborn}\nwhile True: time.sleep(100)"]
    child = Child("c", command, tmp_path / "log")
    await child.start()
    await until(lambda: "on" in (tmp_path / "log").read_text(), "the start")
    await child.stop(0.1)
    assert child.exit_code == -9


async def test_the_last_word_of_a_child(tmp_path: Path) -> None:
    line = json.dumps({"event": "cannot start", "reason": "no"})
    (tmp_path / "log").write_text("of an earlier one\n")
    child = Child("c", [sys.executable, "-c", f"print({line!r})"], tmp_path / "log")
    await child.start()
    await until(lambda: child.exit_code is not None, "its end")
    await child.stop(1)
    assert child.last_word() == "cannot start: no"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
async def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    supervisor = """
import asyncio, sys
from pathlib import Path
from penstock.local.supervise import Child
async def main():
    child = Child("c", ["sleep", "1000"], Path(sys.argv[1]))
    await child.start()
    print(child.pid, flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", supervisor, str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    found = re.match(rb"\d+", await process.stdout.readline())
    assert found
    pid = int(found[0])
    assert commands.lives(pid)
    process.kill()
    await process.wait()
    await until(lambda: not commands.lives(pid), "the child's end")


async def test_options_may_stand_where_an_optional_argument_could() -> None:
    nowhere = ("--nats", "nats://127.0.0.1:1", "--timeout", "0.1")
    asked = (("submit", "kind"), ("submit", "kind", "-5"), ("audit", "verify"), ("submit", "kind", "-"))
    # At the same time, for each tries for some seconds.
    answers = await asyncio.gather(*(commands.penstock(*command, *nowhere, stdin="{}") for command in asked))
    for command, said in zip(asked, answers, strict=True):
        assert (said.code, "cannot reach NATS" in said.err) == (1, True), (command, said)
