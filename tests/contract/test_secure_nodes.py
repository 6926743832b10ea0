"""A secured deployment on clusters (`penstock up --secure DIR --nodes 3`) works, fails over, and lets nobody in."""

import asyncio
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client as Nats
from nats.errors import Error as NatsError
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import commands
from commands import BARE, Up
from penstock import Client, Task, Worker
from penstock.bus.identity import Identity
from penstock.secure.folder import Folder
from penstock.secure.valkey_acl import ADMIN, REPLICA
from penstock.store.places import parse
from valkey_cluster import Member, Nodes
from waves import retrying

DEADLINE_S = 60.0
MANY = 24
"""So many executions that each primary has some."""


class Secured:
    """A running `penstock up --secure files --nodes 3`."""

    def __init__(self, up: Up) -> None:
        self.folder = Folder(up.folder / "files")
        self.url: str = up.facts["nats_url"]
        self.server_pids: dict[str, int] = up.facts["server_pids"]
        self.peer_ports = {name: port for name, port in up_ports(up).items() if name.endswith("-peers")}
        self.place = parse(up.facts["valkey_url"])
        self.nodes = self.nodes_as(ADMIN)

    def file(self, name: str) -> str:
        return str(self.folder.user_file(name))

    def identity(self, name: str) -> Identity:
        return next(user for user in self.folder.users() if user.name == name)

    def nodes_as(self, user: str | None) -> Nodes[Member]:
        """Return Valkey's nodes for a user, or for a stranger, who trusts the same authority."""
        tls = {"ssl": True, "ssl_ca_certs": str(self.folder.authority)}
        login = {"username": user, "password": self.folder.valkey_password(user)} if user else {}
        return Nodes([Member(host.port, **login, **tls) for host in self.place.hosts])

    def pid_of(self, member: Member) -> int:
        return self.server_pids[f"valkey-{self.nodes.members.index(member) + 1}"]


def up_ports(up: Up) -> dict[str, int]:
    return json.loads((up.data / "ports.json").read_text())


async def double(task: Task, number: int) -> int:
    return 2 * number


@asynccontextmanager
async def working(secured: Secured) -> AsyncIterator[None]:
    worker = Worker(secured.url, credentials=secured.file("worker"), park=1)
    worker.handler("job.double")(double)
    running = asyncio.create_task(worker.run(handle_signals=False))
    try:
        await asyncio.wait_for(worker.ready.wait(), DEADLINE_S)
        yield
    finally:
        worker.stop()
        worker.stop()
        await running


async def doubled(client: Client, wave: str) -> list[str]:
    """Submit executions and check their results. Return their ids."""
    deadline = time.monotonic() + DEADLINE_S

    async def one(number: int) -> str:
        run = await retrying(
            lambda: client.submit("job.double", {"number": number}, idempotency_key=f"{wave}-{number}"),
            deadline,
        )
        assert await retrying(lambda: run.result(DEADLINE_S), deadline) == 2 * number
        return run.execution_id

    return await asyncio.gather(*map(one, range(MANY)))


async def test_a_secured_cluster(tmp_path: Path) -> None:
    users = ("--worker=worker", "--submitter=submitter")
    written = await commands.penstock("secure", "files", *users, cwd=tmp_path)
    assert written.code == 0, written.err
    async with Up.open(tmp_path, *BARE, "--secure", "files", "--nodes", "3", "--durability", "process") as up:
        assert up.facts["valkey_url"].startswith("rediss+cluster://127.0.0.1:")
        assert up.facts["nats_url"].count("tls://127.0.0.1:") == 3
        secured = Secured(up)
        await strangers_get_nowhere(secured)
        async with working(secured), await Client.connect(secured.url, secured.file("submitter")) as client:
            ids = await doubled(client, "before")
            await a_primary_fails_over(secured)
            ids += await doubled(client, "after")
            for execution_id in ids:
                assert (await client.get(execution_id)).state == "completed"
        secrets = [secured.folder.valkey_password(user) for user in (ADMIN, REPLICA)]
        logs = up.log + "".join(path.read_text() for path in (up.data / "logs").iterdir())
        assert not any(secret in logs for secret in secrets)


async def a_primary_fails_over(secured: Secured) -> None:
    """A frozen primary is replaced by its replica. Killed, it is started again and follows: its login suffices."""
    nodes = secured.nodes
    primary = await nodes.home(0)
    replica = await nodes.replica_of(primary)
    os.kill(secured.pid_of(primary), signal.SIGSTOP)
    await nodes.until_home_is(0, replica)
    os.kill(secured.pid_of(primary), signal.SIGKILL)
    assert await nodes.replica_of(replica) is primary


async def strangers_get_nowhere(secured: Secured) -> None:
    """Nobody gets to the servers without a login, nor between them without a certificate."""
    for url in secured.url.split(","):
        with pytest.raises(NatsError, match=r"(?i)authorization violation"):
            await Nats().connect(url, tls=secured.identity("worker").trust(), allow_reconnect=False)
    for member in secured.nodes_as(None).members:
        with pytest.raises(exceptions.AuthenticationError):
            await member.run("CLUSTER", "NODES")
        with pytest.raises(exceptions.ConnectionError):
            await Member(member.port, retry=Retry(NoBackoff(), 0)).run("PING")
    for command in (("KEYS", "*"), ("GET", "x"), ("CLUSTER", "NODES"), ("CONFIG", "GET", "*")):
        with pytest.raises(exceptions.NoPermissionError):
            await secured.nodes_as(REPLICA).members[0].run(*command)
    assert len(secured.peer_ports) == 9
    for name, port in secured.peer_ports.items():
        told = await asyncio.to_thread(said_without_certificate, port, secured)
        assert "certificate" in told.lower(), (name, told)


def said_without_certificate(port: int, secured: Secured) -> str:
    """Return the error with which a port for other servers ends a connection that shows no certificate."""
    trust: Any = ssl.create_default_context(cafile=secured.folder.authority)
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as plain:
        try:
            with trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                return f"it said {connection.recv(1)!r}"
        except ssl.SSLError as error:
            return str(error)
