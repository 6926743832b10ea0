"""The store with Sentinels: after a failover they name another primary, and calls go on there."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from penstock.errors import PenstockError
from penstock.local.data_dir import DataDir
from penstock.local.secure import Security
from penstock.local.servers import Server, choose_port, find_valkey, valkey
from penstock.machine import Machine
from penstock.secure.folder import Folder
from penstock.secure.valkey_acl import ADMIN
from penstock.secure.wishes import Deployment
from penstock.secure.writing import write
from penstock.testing.servers import ServerProcess, ValkeyServer, running

DEADLINE_S = 60.0
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


SECURED = """\
port 0
tls-port {port}
tls-cert-file "{tls}/valkey.crt"
tls-key-file "{tls}/valkey.key"
tls-ca-cert-file "{tls}/ca.crt"
tls-auth-clients no
tls-replication yes
sentinel auth-user main admin
sentinel auth-pass main {password}
"""


class SecuredServer(ServerProcess):
    """A primary with TLS and users, or the replica of one."""

    def __init__(self, folder: Path, security: Security, primary: int | None = None) -> None:
        plain = valkey(DataDir(folder), choose_port(0, None), "process")
        server = security.valkey_node(plain)
        with server.config.open("a") as conf:
            conf.write(f"replicaof 127.0.0.1 {primary}\n" if primary else "repl-diskless-sync-delay 0\n")
        super().__init__(server, folder)


class SecuredSentinel(SentinelServer):
    """A Sentinel that speaks TLS only, also with those that it watches, where it is `admin`."""

    def __init__(self, folder: Path, security: Security, primary: int) -> None:
        super().__init__(folder, primary)
        files = security.folder
        password = files.valkey_password(ADMIN)
        with (folder / "sentinel.conf").open("a") as conf:
            conf.write(SECURED.format(port=self.port, tls=files.authority.parent, password=password))
        self._server = replace(self._server, authority=files.authority)


@pytest.fixture
def security(tmp_path: Path) -> Security:
    write(Folder(tmp_path / "files"), Deployment())
    return Security(tmp_path / "files", "penstock")


@pytest.fixture
def secured(security: Security) -> Iterator[tuple[ServerProcess, ServerProcess, str]]:
    """The same three, with TLS and users. The URL holds no login."""
    with ExitStack() as stack:
        primary = stack.enter_context(running(lambda folder: SecuredServer(folder, security)))
        replica = stack.enter_context(running(lambda folder: SecuredServer(folder, security, primary.port)))
        with Redis.from_url(security.folder.valkey_login(primary.url, ADMIN)) as client:
            client.set("x", "y")
            assert client.wait(1, 10_000) == 1
        sentinel = stack.enter_context(
            running(lambda folder: SecuredSentinel(folder, security, primary.port))
        )
        yield primary, replica, f"rediss+sentinel://127.0.0.1:{sentinel.port}/main"


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


async def test_a_lost_primary_is_replaced_over_tls(
    secured: tuple[ServerProcess, ServerProcess, str], security: Security
) -> None:
    """A service has its own login everywhere, the replica its own, and nobody speaks without TLS."""
    primary, replica, url = secured
    login = security.folder.valkey_login(url, "scheduler")
    machine = await Machine.connect(login, service="scheduler", dev=True)
    await refused(login.replace("rediss", "redis"), "no Sentinel names a primary")
    await refused(url, "no Sentinel names a primary")  # trusts the system's authorities, not this one
    await refused(f"{url}?ssl_ca_certs={security.folder.authority}", "NOAUTH")
    os.kill(primary.pid, signal.SIGKILL)
    await answered(machine)
    info = await machine.store.execute("INFO", "server")
    assert f"tcp_port:{replica.port}\r\n".encode() in info
    await machine.close()


async def refused(url: str, why: str) -> None:
    """Connect until it is refused for this reason. A Sentinel that lost sight of its primary has another one."""
    async with asyncio.timeout(DEADLINE_S):
        said = ""
        while why not in said:
            with pytest.raises(PenstockError) as caught:
                await Machine.connect(url, service="scheduler")
            said = str(caught.value)
            await asyncio.sleep(0.05)


async def test_a_name_that_no_sentinel_knows(servers: tuple[ServerProcess, ServerProcess, str]) -> None:
    with pytest.raises(PenstockError, match="names a primary 'other'"):
        await Machine.connect(servers[2].replace("/main", "/other"), service="scheduler")
    with pytest.raises(PenstockError, match="valkey_unavailable"):
        await Machine.connect("redis+sentinel://127.0.0.1:1/main", service="scheduler")
