"""The servers that a deployment on this machine starts by itself, one of each kind or clusters, and where they are."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from penstock.local import cluster, servers
from penstock.local.data_dir import DataDir
from penstock.local.options import Options
from penstock.local.problems import Problem, Status
from penstock.local.secure import Security
from penstock.local.servers import Answer, Durability, Server
from penstock.local.supervise import Child
from penstock.runtime.addresses import login_of
from penstock.urls import redact

PATIENCE_S: Final = 20.0
"""Seconds within which a started server must answer."""
TRIES: Final = 3
LOOK_S: Final = 0.03
STOP_S: Final = 15.0


class Websocket(NamedTuple):
    """The WebSocket of our own nats-server, and the port on which the console must be served for it."""

    url: str
    console_port: int


class OwnServers:
    """NATS and Valkey: those that the options name, and processes of our own for the others.

    After `start`, `nats_url` and `valkey_url` say where they are, and `password_file` has the password of a Valkey of
    our own. `children` are the processes, `nodes` how many nodes they are. `websocket` is the one of a nats-server of
    our own, if the console is wanted.
    """

    def __init__(
        self,
        options: Options,
        data: DataDir,
        security: Security | None,
        status: Status,
        on_end: Callable[[Child, int], None],
    ) -> None:
        """on_end: called when a server ends by itself, with its exit code; it is then started again."""
        self.children: list[Child] = []
        self.nats_url = options.nats_url
        self.valkey_url = options.valkey_url
        self.password_file: Path | None = None
        self.websocket: Websocket | None = None
        self.nodes = 1
        self._options = options
        self._data = data
        self._security = security
        self._status = status
        self._on_end = on_end

    @property
    def valkey_login(self) -> str:
        """Valkey's URL, with its password if it is our own."""
        return login_of(self.valkey_url or "", str(self.password_file) if self.password_file else None)

    async def stop(self) -> None:
        await asyncio.gather(*(child.stop(STOP_S) for child in self.children))

    def _count_nodes(self) -> int:
        """Return the number of nodes. Raise Problem if it does not fit the other options, or the data that is there."""
        options, kept = self._options, cluster.kept_nodes(self._data)
        given = options.nats_url or options.valkey_url or options.nats_port or options.valkey_port
        if options.nodes is None:
            return 1 if given else kept or 1
        if options.nodes > 1 and given:
            raise Problem(
                "--nodes starts servers of its own, on ports of its own: name no other server or port"
            )
        if kept not in (None, options.nodes):
            raise Problem(
                f"{self._data.path} holds a deployment of {kept} node{'' if kept == 1 else 's'} and keeps that number: "
                "leave --nodes out, or name another directory with --data"
            )
        return options.nodes

    async def start(self) -> None:
        """Start what the options do not name. Raise Problem."""
        options = self._options
        self.nodes = self._count_nodes()
        if self.nodes > 1:
            await self._start_clusters()
            return
        if self.nats_url is None:
            self.nats_url = await self._start_server(self._nats, "nats", options.nats_port)
            if self._security is None:
                self._status.say(
                    "  NATS is open to every user of this machine, as a development server's is"
                    f" (--secure closes it): {self.nats_url}"
                )
        else:
            self._status.good("nats-server", f"{redact(self.nats_url)} (given)")
        if self.valkey_url is None:
            self.valkey_url = await self._start_server(self._valkey, "valkey", options.valkey_port)
            if holes := servers.known_holes(servers.find_valkey()):
                self._status.say(f"  {holes}")
        else:
            self._status.good("valkey-server", f"{redact(self.valkey_url)} (given)")

    def _nats(self, data: DataDir, port: int, durability: Durability) -> Server:
        server = servers.nats(data, port, durability)
        if self._security:
            server = self._security.nats(server)
        if self._options.console:
            self._add_websocket(data)
        return server

    def _add_websocket(self, data: DataDir) -> None:
        """Let nats-server also speak WebSocket, on the last port of that and for the console's last port, if free."""
        options, last = self._options, data.ports()
        websocket = servers.choose_port(options.websocket_port, last.get("websocket"))
        console = servers.choose_port(options.console_port, last.get("console"))
        servers.add_websocket(data, websocket, console)
        data.remember_ports({"websocket": websocket, "console": console})
        self.websocket = Websocket(f"ws://127.0.0.1:{websocket}", console)

    def _valkey(self, data: DataDir, port: int, durability: Durability) -> Server:
        server = servers.valkey(data, port, durability, password=self._password())
        return self._security.valkey(server) if self._security else server

    def _password(self) -> str | None:
        """Return the password of a Valkey of our own; None if it has users instead."""
        if self._security:
            return None
        self.password_file = self._data.valkey_password()
        return self.password_file.read_text().strip()

    async def _start_clusters(self) -> None:
        """Start several servers of each kind, which form clusters."""
        self._status.doing("starting the servers")
        plan = await self._start_plan(first=cluster.kept_nodes(self._data) is None)
        self._status.doing("forming the cluster")
        await cluster.form(plan.valkey)
        for server in (*plan.nats, *plan.valkey):
            self._status.good(server.name, f"{server.version:<12} {server.url}")
        self.nats_url, self.valkey_url = plan.nats_url, plan.valkey_url

    async def _start_plan(self, first: bool) -> cluster.Plan:
        """Start all nodes. They keep their ports; only the `first` start of a deployment tries other ones when another
        program took a port meanwhile."""
        tries = TRIES if first else 1
        for attempt in range(1, tries + 1):
            plan = cluster.plan(
                self._data,
                self.nodes,
                self._options.durability,
                self._password(),
                self._security,
                anew=attempt > 1,
            )
            silent = await self._start_nodes([*plan.nats, *plan.valkey])
            if silent is None:
                return plan
            if attempt == tries:
                raise _not_started(*silent)
            await self.stop()
            self.children.clear()
        raise AssertionError("unreachable")

    async def _start_nodes(self, nodes: list[Server]) -> tuple[Server, Child] | None:
        """Start servers side by side; return the first that does not answer, if any."""
        started = [
            (server, Child(server.name, server.command, self._data.log(server.name), on_end=self._on_end))
            for server in nodes
        ]
        for _, child in started:
            self.children.append(child)
            await child.start()
        for server, child in started:
            if not await self._answering(server, child):
                return server, child
        return None

    async def _start_server(
        self, configure: Callable[[DataDir, int, Durability], Server], key: str, wanted: int
    ) -> str:
        """Start a server on its last port, or a free one if that port is taken meanwhile. Return the server's URL."""
        last_port = self._data.ports().get(key)
        for attempt in range(1, TRIES + 1):
            port = servers.choose_port(wanted, last_port if attempt == 1 else None)
            server = configure(self._data, port, self._options.durability)
            child = Child(server.name, server.command, self._data.log(server.name), on_end=self._on_end)
            self._status.doing(f"starting {server.name} {server.version}")
            self.children.append(child)
            await child.start()
            if await self._answering(server, child):
                self._data.remember_ports({key: port})
                self._status.good(server.name, f"{server.version:<12} {server.url}")
                return server.url
            self.children.remove(child)
            await child.stop(STOP_S)
            if attempt == TRIES:
                raise _not_started(server, child)
        raise AssertionError("unreachable")

    async def _answering(self, server: Server, child: Child) -> bool:
        began = time.monotonic()
        deadline = began + PATIENCE_S
        while child.exit_code is None and time.monotonic() < deadline:
            answer = await servers.ask(server)
            if answer is Answer.YES:
                return child.exit_code is None
            if answer is Answer.LOADING:
                deadline = time.monotonic() + PATIENCE_S
                seconds = round(time.monotonic() - began)
                self._status.doing(f"{server.name} reads its data, for {seconds} s")
            await asyncio.sleep(LOOK_S)
        return False


def _not_started(server: Server, child: Child) -> Problem:
    words = "\n  ".join(child.last_words())
    return Problem(f"{server.name} does not start; the end of {child.log}:\n  {words}")
