"""Which server has which partition: one fixed server, the primary that Sentinels name, or a cluster's primaries.

A `Topology` only knows; `Servers` acts on it. `refresh` is called when a call shows that the knowledge may be stale.
"""

import logging
from typing import Any, Final, Protocol, cast

from redis import exceptions
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff

from penstock.store.cluster import Cluster
from penstock.store.link import Explained
from penstock.store.places import Host, Place

log: Final = logging.getLogger(__name__)
ANSWER_S: Final = 1.0
"""Seconds that one Sentinel may take to answer."""


class Topology(Protocol):
    """What `Servers` needs to know about the servers."""

    moves: bool
    """Whether partitions can move from one server to another. If not, `refresh` has nothing to find out."""

    def url_of(self, partition: int) -> str | None:
        """Return the URL of the server that has the partition; None if that is not known."""
        ...

    def urls(self) -> list[str]:
        """Return the URLs of all servers that have partitions, in a stable order."""
        ...

    async def refresh(self) -> None:
        """Find out anew. Raise Explained if nobody can tell, or UrlError if the URL names something else."""
        ...


def topology_of(place: Place) -> Topology:
    match place.kind:
        case "cluster":
            return Cluster(place)
        case "sentinel":
            return Sentinels(place)
        case "server":
            return Fixed(place.url)


class Fixed:
    """One server that has all partitions."""

    moves = False

    def __init__(self, url: str) -> None:
        self._url = url

    def url_of(self, partition: int) -> str | None:
        return self._url

    def urls(self) -> list[str]:
        return [self._url]

    async def refresh(self) -> None:
        pass


class Sentinels:
    """One primary that has all partitions. After a failover the Sentinels name another server."""

    moves = True

    def __init__(self, place: Place) -> None:
        self._place = place
        self.primary: Host | None = None

    def url_of(self, partition: int) -> str | None:
        return self._place.url_of(self.primary) if self.primary else None

    def urls(self) -> list[str]:
        return [self._place.url_of(self.primary)] if self.primary else []

    async def refresh(self) -> None:
        place = self._place
        options: dict[str, Any] = {
            **dict(place.sentinel_login),
            "socket_timeout": ANSWER_S,
            "retry": Retry(NoBackoff(), 0),  # the next Sentinel is asked instead
        }
        if place.scheme == "rediss":
            tls = cast("dict[str, Any]", parse_url(place.url_of(place.hosts[0])))
            options |= {"ssl": True, **{k: v for k, v in tls.items() if k.startswith("ssl_")}}
        hosts = [(host.name, host.port) for host in place.hosts]
        sentinels = cast("Any", Sentinel)(hosts, sentinel_kwargs=options)
        try:
            name, port = await sentinels.discover_master(place.group)
        except MasterNotFoundError:  # its text shows redis-py's objects, and no reason
            asked = ", ".join(map(str, place.hosts))
            raise Explained(
                f"no Sentinel names a primary {place.group!r}: none of {asked} can be reached, or none sees it alive"
            ) from None
        except exceptions.RedisError as error:
            raise Explained(f"no Sentinel names a primary {place.group!r}: {error}") from None
        finally:
            for sentinel in sentinels.sentinels:
                await sentinel.aclose()
        primary = Host(name, port)
        if self.primary not in (None, primary):
            log.warning("Valkey's primary is now %s", primary)
        self.primary = primary
