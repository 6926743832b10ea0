"""Check at start that the servers are what Penstock can work with; what cannot work is refused with what to do.

Nothing here waits for a server that is away or still starting: the callers retry.
"""

from collections.abc import Mapping
from typing import Final

from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import ServiceUnavailableError

from penstock import versions
from penstock.store.places import parse
from penstock.store.topology import topology_of
from penstock.store.wire import ReplyError, Wire
from penstock.urls import redact

_PASSING: Final = ("LOADING", "MASTERDOWN", "BUSY", "ERR max number of clients")
"""Refusals of a Valkey that will take the same command later."""
_NO_JETSTREAM: Final = frozenset({10039, 10076})
"""Error codes of nats-server: JetStream is off for the account, or at all."""


class UnfitServerError(Exception):
    """A server with which no waiting helps; the message says what to do."""


def unfit_valkey(info: Mapping[str, str], clustered: bool = False) -> str | None:
    """Return why Penstock cannot work with the Valkey that INFO describes, with what to do; None if it can.

    clustered: whether it is to belong to a cluster.
    """
    name, version = versions.of(info)
    if advice := versions.too_old(name, version):
        return f"it is {name} {version}: {advice}"
    belongs = info.get("cluster_enabled") == "1"
    if clustered and not belongs:
        return "it belongs to no cluster: name it as redis://host:port, or switch on its cluster-enabled"
    if belongs and not clustered:
        return (
            "it belongs to a cluster, of which this URL names one server: name the cluster, as"
            " redis+cluster://host:port,host:port, or take a Valkey with cluster-enabled no"
        )
    if info.get("role", "master") != "master":
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        return f"it is a replica, which takes no writes: name its primary, {primary}"
    return None


async def check_valkey(url: str) -> list[str]:
    """Check each server with partitions to which a URL leads (store/places.py). Return warnings.

    Raise UnfitServerError; OSError, TimeoutError or ReplyError if a server may answer later.
    """
    place = parse(url)
    topology = topology_of(place)
    await topology.refresh()
    warnings = [await _check_server(each, place.kind == "cluster") for each in topology.urls()]
    return sorted({warning for warning in warnings if warning})


async def _check_server(url: str, clustered: bool) -> str:
    """Return a warning, or an empty string."""
    wire: Wire | None = None
    try:
        wire = await Wire.connect(url, lambda _wire, _error: None)
        info = parse_info(await wire.ask("INFO"))
    except ReplyError as error:
        said = str(error)
        if said.startswith(_PASSING):
            raise
        if wire is not None and said.startswith("NOPERM"):
            return "Valkey's version and role are not checked: its user may not run INFO"
        raise UnfitServerError(
            f"Valkey at {redact(url)} refuses this connection: {said[:200]}; look at the user, the password"
            " and the database in PENSTOCK_VALKEY_URL or PENSTOCK_VALKEY_PASSWORD_FILE"
        ) from None
    finally:
        if wire is not None:
            wire.close()
    if why := unfit_valkey(info, clustered):
        raise UnfitServerError(f"Valkey at {redact(url)} cannot be used: {why}")
    return versions.known_holes(*versions.of(info))


async def check_nats(nats: Client, js: JetStreamContext) -> None:
    """Check the version of the connected nats-server, and that JetStream is on.

    Raise UnfitServerError; a NATS error or TimeoutError if JetStream may answer later.
    """
    found = nats.connected_server_version
    version = f"{found.major}.{found.minor}.{found.patch}"
    if advice := versions.too_old("nats-server", version):
        raise UnfitServerError(f"NATS cannot be used: it is nats-server {version}: {advice}")
    server = nats._server_info  # pyright: ignore[reportPrivateUsage]
    try:
        await js.account_info()
    except (ServiceUnavailableError, NoRespondersError) as error:
        code = getattr(error, "err_code", None)
        # In a cluster another server may have JetStream; it may be restarting.
        alone = not server.get("jetstream") and not server.get("cluster")
        if code in _NO_JETSTREAM or (code is None and alone):
            whom = "for this account" if server.get("jetstream") else "in nats-server's configuration"
            raise UnfitServerError(
                f"NATS cannot be used: it has no JetStream; switch it on {whom}: jetstream {{}}, or nats-server -js"
            ) from None
        raise


def parse_info(text: bytes) -> dict[str, str]:
    """Parse the reply of INFO into its fields."""
    fields = (line.partition(":") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in fields if colon}
