"""Clusters on this machine, for `penstock up --nodes` and for tests: NATS servers with JetStream, and Valkey primaries,
each with a replica."""

import asyncio
import shutil
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from penstock.local.data_dir import DataDir
from penstock.local.problems import Problem
from penstock.local.secure import Security
from penstock.local.servers import (
    LOOPBACK,
    MAX_PAYLOAD,
    NATS_CONFIG,
    VALKEY_CONFIG,
    Durability,
    Server,
    choose_port,
    find_nats,
    find_valkey,
    is_free,
    quoted,
)

SLOTS: Final = 16384
FORM_S: Final = 60.0
"""Seconds within which the started nodes must have become one cluster."""
_LOOK_S: Final = 0.02

# Without full coverage, the primaries that live go on while one of them fails over. A replica that is new gets its copy
# at once, not 5 s later.
CLUSTER_CONFIG: Final = """\
cluster-enabled yes
cluster-config-file nodes.conf
cluster-port {bus_port}
cluster-node-timeout {timeout_ms}
cluster-require-full-coverage no
repl-diskless-sync-delay 0
"""


NATS_CLUSTER_CONFIG: Final = """\
cluster {{
    name: penstock
    listen: "127.0.0.1:{route_port}"
    routes: [{routes}]
    {tls}
}}
"""
NODE_TIMEOUT_MS: Final = 3000
"""A primary of `penstock up` that is silent for so long is replaced by its replica."""


class Plan(NamedTuple):
    """Servers whose configuration is written: `nodes` NATS servers, so many primaries and so many replicas."""

    nats: list[Server]
    valkey: list[Server]

    @property
    def nats_url(self) -> str:
        return ",".join(server.url for server in self.nats)

    @property
    def valkey_url(self) -> str:
        """The URL that names the Valkey nodes as one cluster."""
        return url_of(self.valkey)


def kept_nodes(data: DataDir) -> int | None:
    """Return how many nodes the deployment in this directory has; None if it was never started."""
    if count := sum(1 for _ in data.path.glob("valkey-*.conf")):
        return count // 2
    return 1 if (data.path / "valkey.conf").exists() else None


def plan(
    data: DataDir,
    nodes: int,
    durability: Durability,
    password: str | None,
    security: Security | None,
    *,
    anew: bool = False,
) -> Plan:
    """Write the configuration of all servers, on the ports of the last run, or on free ones.

    Either Valkey's `password` is given, or the `security` that has users for both kinds of servers. Raise Problem if a
    program is missing, or if another process has a port: the nodes know one another by their ports. anew: take other
    ports than a first start that failed, and remove what its servers wrote.
    """
    names = [
        f"{kind}-{number}"
        for kind, count in (("nats", 1), ("valkey", 2))
        for number in _numbers(nodes * count)
    ]
    wanted = [port for name in names for port in (name, f"{name}-peers")]
    kept = {} if anew else data.ports()
    ports: dict[str, int] = {}
    for name in wanted:
        port = ports[name] = kept.get(name) or choose_port(0, None)
        if not is_free(port):
            raise Problem(f"port {port} is taken, but {name} had it in the last run: end what has it now")
    data.remember_ports(ports)
    if anew:
        for name in names:
            shutil.rmtree(data.path / name, ignore_errors=True)
    routes = [ports[f"nats-{number}-peers"] for number in _numbers(nodes)]
    tls = security.nats_tls if security else ""
    nats = [
        nats_node(data, number, ports[f"nats-{number}"], routes, durability, tls)
        for number in _numbers(nodes)
    ]
    valkey = [
        node(
            data,
            number,
            ports[f"valkey-{number}"],
            ports[f"valkey-{number}-peers"],
            durability,
            NODE_TIMEOUT_MS,
            password,
        )
        for number in _numbers(2 * nodes)
    ]
    if security:
        return Plan([security.nats(each) for each in nats], [security.valkey_node(each) for each in valkey])
    return Plan(nats, valkey)


def _numbers(count: int) -> range:
    return range(1, count + 1)


def nats_node(
    data: DataDir, number: int, port: int, route_ports: list[int], durability: Durability, tls: str = ""
) -> Server:
    """Write the configuration of one NATS server of a cluster, numbered from 1. Raise Problem if there is none.

    tls: the block that has the servers speak TLS with one another.
    """
    binary = find_nats()
    name = f"nats-{number}"
    config = data.path / f"{name}.conf"
    one = NATS_CONFIG.format(
        port=port,
        max_payload=MAX_PAYLOAD,
        folder=quoted(data.path / name),
        sync="sync_interval: always" if durability == "disk" else "",
    ).replace("server_name: penstock\n", f"server_name: {name}\n")
    routes = ", ".join(f'"nats://127.0.0.1:{each}"' for each in route_ports)
    config.write_text(
        one + NATS_CLUSTER_CONFIG.format(route_port=route_ports[number - 1], routes=routes, tls=tls)
    )
    command = [str(binary.path), "--config", str(config)]
    return Server(name, binary.version, f"nats://127.0.0.1:{port}", port, command)


def node(
    data: DataDir,
    number: int,
    port: int,
    bus_port: int,
    durability: Durability,
    timeout_ms: int,
    password: str | None = None,
    host: str = LOOPBACK,
) -> Server:
    """Write the configuration of one node of a cluster, numbered from 1. Raise Problem if there is no Valkey.

    A primary that is silent for `timeout_ms` is replaced by its replica. `host`: the address that it listens on.
    """
    binary = find_valkey()
    name = f"valkey-{number}"
    folder = data.path / name
    folder.mkdir(exist_ok=True)
    config = data.path / f"{name}.conf"
    text = VALKEY_CONFIG + CLUSTER_CONFIG
    config.write_text(
        text.format(
            host=host,
            port=port,
            bus_port=bus_port,
            folder=quoted(folder),
            fsync="always" if durability == "disk" else "no",
            lazy="no" if durability == "disk" else "yes",
            timeout_ms=timeout_ms,
            login=f"requirepass {password}\nmasterauth {password}" if password else "",
        )
    )
    command = [str(binary.path), str(config)]
    return Server(name, binary.version, f"redis://{host}:{port}/0", port, command, password, host)


def url_of(servers: Sequence[Server]) -> str:
    """Return the URL that names these nodes as one cluster."""
    scheme = "rediss" if servers[0].authority else "redis"
    return f"{scheme}+cluster://" + ",".join(f"{server.host}:{server.port}" for server in servers)


async def form(servers: Sequence[Server]) -> None:
    """Make one cluster of started nodes: the first half become primaries, the others their replicas, in order.

    A cluster that was formed before, by an earlier run, is only waited for. Raise Problem if that takes too long.
    """
    clients = [_client(server) for server in servers]
    try:
        async with asyncio.timeout(FORM_S):
            if not await _knows_others(clients[0]):
                await _introduce(clients, servers[0], len(servers) // 2)
            for client in clients:
                while not await _is_ready(client, len(servers)):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
    except (TimeoutError, exceptions.RedisError) as error:
        raise Problem(
            f"the Valkey cluster does not form: {error or 'the nodes do not find one another'}"
        ) from None
    finally:
        for client in clients:
            await client.aclose()


def _client(server: Server) -> Any:
    tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": str(server.authority)} if server.authority else {}
    login = {"username": server.user, "password": server.password}
    # What forms a cluster can be said only once: nothing is repeated because an answer takes long.
    patient: dict[str, Any] = {"socket_timeout": FORM_S, "retry": Retry(NoBackoff(), 0)}
    return cast("Any", Redis)(host=server.host, port=server.port, protocol=2, **login, **tls, **patient)


async def _knows_others(client: Any) -> bool:
    return "cluster_known_nodes:1\r" not in (await client.execute_command("CLUSTER", "INFO")).decode()


async def _introduce(clients: list[Any], first_node: Server, primaries: int) -> None:
    per_primary = -(-SLOTS // primaries)
    for number, client in enumerate(clients):
        # Distinct epochs from the start: no two nodes then have to agree on theirs.
        await client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        if number < primaries:
            first = number * per_primary
            last = min(first + per_primary, SLOTS) - 1
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
    for client in clients[1:]:
        place = (first_node.host, first_node.port, await _bus_port(clients[0]))
        await client.execute_command("CLUSTER", "MEET", *place)
    ids = [(await client.execute_command("CLUSTER", "MYID")).decode() for client in clients]
    for number, client in enumerate(clients[primaries:]):
        primary = ids[number % primaries]
        while primary not in (await client.execute_command("CLUSTER", "NODES")).decode():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        await client.execute_command("CLUSTER", "REPLICATE", primary)


async def _bus_port(client: Any) -> int:
    return int((await client.config_get("cluster-port"))["cluster-port"])


async def _is_ready(client: Any, nodes: int) -> bool:
    """Return whether a node knows all others and all slots, and, as a replica, has its primary's data."""
    info = (await client.execute_command("CLUSTER", "INFO")).decode()
    wanted = ("cluster_state:ok", f"cluster_slots_ok:{SLOTS}", f"cluster_known_nodes:{nodes}")
    role = await client.execute_command("ROLE")
    return all(f"{each}\r" in info for each in wanted) and (role[0] == b"master" or role[3] == b"connected")
