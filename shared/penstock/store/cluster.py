"""The topology of a Valkey Cluster: which primary serves the hash slot of each partition.

All keys of a partition have the hash tag `{<partition>}`, so they lie in one slot, on one primary. While a slot is
being moved, some of its keys are on one server and some on the other: no function may run there. Valkey sees to that by
itself, because the key that an FCALL declares, `<root>:{<partition>}`, never exists. For a slot that is on its way,
Valkey answers a call with a missing key with ASK, before it runs. `Store` never follows an ASK: it asks again until
the slot has arrived.
"""

import asyncio
import logging
import re
from bisect import bisect_right
from typing import Any, Final, NamedTuple, cast

from redis.crc import key_slot

from penstock.store.link import Explained
from penstock.store.places import Host, Place, UrlError
from penstock.store.wire import ReplyError, Wire

log: Final = logging.getLogger(__name__)
ANSWER_S: Final = 1.0
"""Seconds that one node may take to tell what it knows."""
_EPOCH: Final = re.compile(rb"cluster_current_epoch:(\d+)")


class View(NamedTuple):
    """What one node knows. The later epoch is the newer knowledge: each failover and each moved slot begins one."""

    epoch: int
    ranges: list[tuple[int, int, Host]]
    """First slot, last slot and primary, sorted."""


class Cluster:
    """The primaries of a cluster, by slot."""

    moves = True

    def __init__(self, place: Place) -> None:
        self._place = place
        self.ranges: list[tuple[int, int, Host]] = []
        """First slot, last slot and primary, sorted."""
        self._starts: list[int] = []

    def url_of(self, partition: int) -> str | None:
        slot = key_slot(b"%d" % partition)
        at = bisect_right(self._starts, slot) - 1
        if at < 0 or self.ranges[at][1] < slot:
            return None
        return self._place.url_of(self.ranges[at][2])

    def urls(self) -> list[str]:
        return [self._place.url_of(host) for host in self._primaries()]

    def _primaries(self) -> list[Host]:
        return list(dict.fromkeys(host for _, _, host in self.ranges))

    async def refresh(self) -> None:
        """Ask the known nodes, and believe the newest view of more than half of them.

        One node alone may be wrong: a primary that was cut off from the others still thinks that it has its slots.
        Raise Explained if no node answers, or UrlError if those that answer are in no cluster.
        """
        hosts = list(dict.fromkeys([*self._primaries(), *self._place.hosts]))
        asking = {asyncio.ensure_future(self._ask(host)) for host in hosts}
        views: list[View] = []
        failures: list[BaseException] = []
        try:
            while asking and len(views) * 2 <= len(hosts):
                done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    if (error := each.exception()) is None:
                        views.append(each.result())
                    else:
                        failures.append(error)
        finally:
            for each in asking:
                each.cancel()
        if not views:
            if wrong := next((error for error in failures if isinstance(error, UrlError)), None):
                raise wrong
            reasons = ", ".join(sorted({str(error) or type(error).__name__ for error in failures}))
            raise Explained(f"no node of the cluster answers: {reasons}")
        newest = max(views, key=lambda view: view.epoch)
        before = self._primaries()
        self.ranges = newest.ranges
        self._starts = [first for first, _, _ in newest.ranges]
        now = self._primaries()
        if before and set(now) != set(before):
            log.warning("the cluster's primaries are now %s", ", ".join(map(str, now)))

    async def _ask(self, host: Host) -> View:
        """Ask one node. Raise OSError, TimeoutError or UrlError."""
        async with asyncio.timeout(ANSWER_S):
            wire: Wire | None = None
            try:
                wire = await Wire.connect(self._place.url_of(host), lambda _wire, _error: None)
                info = cast("bytes", await wire.ask("CLUSTER", "INFO"))
                slots = cast("list[Any]", await wire.ask("CLUSTER", "SLOTS"))
            except ReplyError as error:
                if "cluster support disabled" in str(error):
                    raise UrlError(f"{host} is no node of a cluster: name it redis://{host}/0") from None
                raise ConnectionError(f"{host}: {error}") from None
            finally:
                if wire is not None:
                    wire.close()
        epoch = _EPOCH.search(info)
        ranges = sorted(
            (first, last, Host(_name(primary[0], host), primary[1])) for first, last, primary, *_ in slots
        )
        return View(int(epoch[1]) if epoch else 0, ranges)


def _name(told: bytes | None, asked: Host) -> str:
    """Return the name of a node: an empty one, or none, means the node that was asked."""
    return told.decode() if told else asked.name
