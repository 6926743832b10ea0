"""`penstock doctor` for several Valkeys: who is primary of which slots, and whether its replicas follow."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from redis import exceptions
from redis.asyncio import Redis

from penstock.cli.doctor import Check, on_one_valkey
from penstock.store import UrlError
from penstock.store.cluster import Cluster
from penstock.store.places import Host, Place, parse
from penstock.store.topology import Sentinels

PATIENCE_S: Final = 5
_CLUSTER_MODE: Final = "is the cluster whole? ask it: valkey-cli cluster info"


async def on_nodes(url: str) -> AsyncIterator[Check]:
    """Check the servers of a cluster, or the primary that Sentinels name."""
    try:
        place = parse(url)
        hosts = await _primaries(place)
    except UrlError as error:
        yield Check("Valkey", False, "the URL is wrong", str(error))
        return
    except OSError as error:
        yield Check("Valkey", False, str(error), "start it, or name living nodes with --valkey")
        return
    first = True
    for host, what in hosts:
        async with _client(place.url_of(host)) as client:
            try:
                yield await _on_primary(client, host, what)
                async for check in on_one_valkey(client, str(host), place.kind == "cluster"):
                    if first or not check.ok:  # what is well everywhere is said once
                        yield check
            except (exceptions.RedisError, OSError) as error:
                yield Check(f"Valkey {host}", False, f"{what}; {error}", _CLUSTER_MODE)
        first = False


async def _primaries(place: Place) -> list[tuple[Host, str]]:
    """Return each primary, and what it is primary of. Raise UrlError or OSError."""
    if place.kind == "sentinel":
        sentinels = Sentinels(place)
        await sentinels.refresh()
        return [(sentinels.primary, f"primary of {place.group}")] if sentinels.primary else []
    cluster = Cluster(place)
    await cluster.refresh()
    slots: dict[Host, list[str]] = {}
    for first, last, host in cluster.ranges:
        slots.setdefault(host, []).append(f"{first}-{last}")
    return [(host, f"primary of slots {', '.join(each)}") for host, each in slots.items()]


@asynccontextmanager
async def _client(url: str) -> AsyncGenerator[Any]:
    client = cast("Any", Redis).from_url(
        url, protocol=2, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S
    )
    try:
        yield client
    finally:
        await client.aclose()


async def _on_primary(client: Any, host: Host, what: str) -> Check:
    info: dict[str, Any] = await client.info("replication")
    replicas = [info[f"slave{number}"] for number in range(info["connected_slaves"])]
    following = [f"{each['ip']}:{each['port']}" for each in replicas if each["state"] == "online"]
    found = f"{what}; replicas: {', '.join(following) or 'none'}"
    advice = "" if following else "give it a replica: without one, its loss is the loss of its partitions"
    return Check(f"Valkey {host}", None if advice else True, found, advice)
