"""The store with Sentinels: after a failover they name another primary, and calls go on there."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from penstock.errors import PenstockError
from penstock.local.servers import Server, choose_port, find_valkey
from penstock.machine import Machine
from penstock.testing.servers import ServerProcess, ValkeyServer, running

DEADLINE_S = 20.0
CONFIG = """\
port {port}
dir "{folder}"
sentinel monitor main 127.0.0.1 {primary} 1
sentinel down-after-milliseconds main 500
sentinel failover-timeout main 3000
"""


class Replica(ValkeyServer):
    """A replica of the server on another port."""

    def __init__(self, folder: Path, primary: int) -> None:
        super().__init__(folder)
        with (folder / "valkey.conf").open("a") as conf:
            conf.write(f"replicaof 127.0.0.1 {primary}\n")


class Primary(ValkeyServer):
    """A server that gives a new replica its copy at once, not 5 s later."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with (folder / "valkey.conf").open("a") as conf:
            conf.write("repl-diskless-sync-delay 0\n")


class SentinelServer(ServerProcess):
    def __init__(self, folder: Path, primary: int) -> None:
        binary, port = find_valkey(), choose_port(0, None)
        config = folder / "sentinel.conf"
        config.write_text(CONFIG.format(port=port, folder=folder, primary=primary))
        command = [str(binary.path), str(config), "--sentinel"]
        super().__init__(Server("sentinel", binary.version, "", port, command), folder)


@pytest.fixture
def servers() -> Iterator[tuple[ServerProcess, ServerProcess, str]]:
    """A primary, its replica, and the URL that names the Sentinel which watches them."""
    with ExitStack() as stack:
        primary = stack.enter_context(running(Primary))
        replica = stack.enter_context(running(lambda folder: Replica(folder, primary.port)))
        # A Sentinel asks for replicas when it starts, and then only every 10 s.
        with socket.create_connection(("127.0.0.1", primary.port)) as connection:
            connection.sendall(b"SET x y\r\nWAIT 1 10000\r\n")
            answers = connection.makefile("rb")
            assert (answers.readline(), answers.readline()) == (b"+OK\r\n", b":1\r\n")
        sentinel = stack.enter_context(running(lambda folder: SentinelServer(folder, primary.port)))
        yield primary, replica, f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main"


async def answered(machine: Machine) -> int:
    """Ping until it is answered. Return how often it was refused before."""
    refused = 0
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await machine.ping()
                return refused
            except PenstockError as error:
                assert error.code == "valkey_unavailable"
                refused += 1
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_primary_is_replaced(
    servers: tuple[ServerProcess, ServerProcess, str], harm: signal.Signals
) -> None:
    primary, replica, url = servers
    machine = await Machine.connect(url, service="scheduler", dev=True)
    os.kill(primary.pid, harm)
    await answered(machine)
    port = await machine.store.execute("CONFIG", "GET", "port")
    assert port == [b"port", b"%d" % replica.port]
    await machine.close()


async def test_a_name_that_no_sentinel_knows(servers: tuple[ServerProcess, ServerProcess, str]) -> None:
    with pytest.raises(PenstockError, match="names a primary 'other'"):
        await Machine.connect(servers[2].replace("/main", "/other"), service="scheduler")
    with pytest.raises(PenstockError, match="valkey_unavailable"):
        await Machine.connect("redis+sentinel://127.0.0.1:1/main", service="scheduler")
