"""All servers that hold the keys of one Penstock: a single one, or the primaries of a cluster.

In a cluster, writes pause on all primaries, and nothing else is read before the last one has paused. From then on until
the first goes on, no key changes anywhere: that is the one point in time.

The keys of a slot that is moved are first on one primary, then on another, and a log of both would not say which record
is the last one. So a backup fails if a slot moves, or a primary changes, while it is taken.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

from penstock.backup.folder import BackupError, Sink
from penstock.backup.keys import TOGETHER, Primary, records
from penstock.store.link import Explained
from penstock.store.places import UrlError, parse
from penstock.store.topology import Topology, topology_of

MOVED: Final = (
    "slots or primaries of the cluster changed during the backup: take it again when the cluster rests"
)


class Valkey:
    """The servers, with a connection to each."""

    def __init__(self, topology: Topology, primaries: dict[str, Primary]) -> None:
        self._topology = topology
        self._primaries = primaries
        self._places = _places(topology)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncGenerator[Self]:
        """Find the servers that a URL names, and connect to them. Raise BackupError."""
        try:
            topology = topology_of(parse(url))
        except UrlError as error:
            raise BackupError(f"Valkey's URL: {error}") from None
        await _refresh(topology)
        primaries: dict[str, Primary] = {}
        try:
            for each in topology.urls():
                primaries[each] = await Primary.connect(each)
            yield cls(topology, primaries)
        finally:
            for primary in primaries.values():
                await primary.close()

    @property
    def _all(self) -> list[Primary]:
        return list(self._primaries.values())

    async def any_key(self, prefix: str) -> bool:
        """Return whether there is a key that begins like this."""
        return any([await primary.any_key(prefix) for primary in self._all])

    async def version(self) -> str:
        info = (await self._all[0].ask("INFO", "server")).decode()
        lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return lines.get("valkey_version") or f"{lines['redis_version']} (Redis)"

    # -- a copy of the keys ------------------------------------------------------------------------

    async def track(self, prefix: str) -> None:
        """Note from now on which keys that begin like this change."""
        for primary in self._all:
            await primary.track(prefix)

    async def scan(self, prefix: str, sink: Sink) -> int:
        """Dump all keys that begin like this; return their number. Keys may come twice."""
        return sum([await primary.scan(prefix, sink) for primary in self._all])

    async def catch_up(self, sink: Sink) -> None:
        """Dump what has changed, until little is left to do."""
        for primary in self._all:
            await primary.catch_up(sink)

    @asynccontextmanager
    async def standing_still(self, ms: int, sink: Sink) -> AsyncGenerator[int]:
        """Pause writes on all servers, for at most `ms`, and dump what is left. Yield the time, by Valkey's clock.

        Raise BackupError at the end if something has changed in spite of it.
        """
        try:
            await self._each("CLIENT", "PAUSE", ms, "WRITE")
            await asyncio.gather(*(_dump_rest(primary, sink) for primary in self._all))
            times = await self._each("TIME")
            yield max(int(seconds) * 1000 + int(micros) // 1000 for seconds, micros in times)
            await asyncio.gather(*(primary.drain() for primary in self._all))
            if any(primary.dirty for primary in self._all):
                raise BackupError(
                    f"Valkey was written to although it was asked to take no writes for {ms} ms: allow more (--pause),"
                    " or try when less is done"
                )
            await self._check_unmoved()
        finally:
            await self._each("CLIENT", "UNPAUSE")

    async def _each(self, *command: Any) -> list[Any]:
        return await asyncio.gather(*(primary.ask(*command) for primary in self._all))

    async def _check_unmoved(self) -> None:
        if not self._topology.moves:
            return
        await _refresh(self._topology)
        if _places(self._topology) != self._places:
            raise BackupError(MOVED)
        if len(self._all) > 1 and any(map(_moves, await self._each("CLUSTER", "NODES"))):
            raise BackupError(MOVED)

    # -- and back ----------------------------------------------------------------------------------

    async def load(self, path: Path, prefix: str) -> None:
        """Restore all records of a file, each on the server that has its partition. Raise BackupError.

        A key whose time has passed meanwhile is left out.
        """
        waiting: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for key, expires, dumped in records(path):
            url = self._url_of(key, prefix)
            if dumped is None:
                waiting[url].append(("UNLINK", key))
            else:
                waiting[url].append(("RESTORE", key, max(expires, 0), dumped, "REPLACE", "ABSTTL"))
            if len(waiting[url]) >= TOGETHER:
                await self._primaries[url].run(waiting.pop(url))
        for url, commands in waiting.items():
            await self._primaries[url].run(commands)

    def _url_of(self, key: bytes, prefix: str) -> str:
        partition = int(key[len(prefix) : key.index(b"}")])
        url = self._topology.url_of(partition)
        if url is None:
            raise BackupError(f"no primary of the cluster has the slot of partition {partition}")
        return url

    async def remove(self, prefix: str) -> None:
        """Remove all keys that begin like this."""
        for primary in self._all:
            await primary.remove(prefix)


def _places(topology: Topology) -> list[Any]:
    """Return what must not change during a backup: in a cluster the primary of each slot, else the server."""
    return list(getattr(topology, "ranges", None) or topology.urls())


async def _dump_rest(primary: Primary, sink: Sink) -> None:
    await primary.drain()
    await primary.dump(list(primary.dirty), sink)


async def _refresh(topology: Topology) -> None:
    try:
        await topology.refresh()
    except (Explained, UrlError) as error:
        raise BackupError(f"Valkey: {error}") from None


def _moves(nodes: bytes) -> bool:
    """Return whether a node, whose answer to CLUSTER NODES this is, has a slot that is on its way."""
    return any(b"myself" in line and re.search(rb"\[\d+-[<>]-", line) for line in nodes.splitlines())
