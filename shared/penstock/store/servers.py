"""The servers of a store: the one that has each partition, and the commands that are parked while no server has it.

Commands that a server did not run, because their partition is elsewhere now, are parked until the topology
(store/topology.py) is known anew. Then they are sent to the server that it names.
"""

import asyncio
import logging
from typing import Any, Final

from penstock.errors import PenstockError
from penstock.store.acknowledged import Acknowledged
from penstock.store.link import LATE_S, Explained, unavailable
from penstock.store.node import Command, Node, Owner
from penstock.store.places import UrlError, parse
from penstock.store.topology import topology_of
from penstock.store.wire import ReplyError

log: Final = logging.getLogger(__name__)

HOLD_S: Final = 2.0
"""For this long the commands of a partition that no server runs are parked. After that they are refused at once."""
_PAUSE_S: Final = 0.05


class Servers:
    """The servers that a store knows, each connected when a call needs it."""

    def __init__(self, url: str, owner: Owner, acknowledged: Acknowledged, *, timeout: float) -> None:
        """`owner`: whose calls the servers run. Raise UrlError for a wrong URL (store/places.py)."""
        self.routes: dict[int, Node] = {}
        """The server of each partition; of a partition whose server is not known, there is none. It is always the same
        dict, so a caller may keep it."""
        self._owner = owner
        self._acknowledged = acknowledged
        self._timeout = timeout
        self._topology = topology_of(parse(url))
        self.moves = self._topology.moves
        """Whether partitions can move from one server to another."""
        self._nodes: dict[str, Node] = {}
        self._parked: dict[int, list[Command]] = {}
        self._elsewhere_since: dict[int, float] = {}
        """Since when no server runs the calls of a partition, by the loop's clock."""
        self._mending: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._loop = asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        """Whether commands are parked, or wait to be sent or answered."""
        return bool(self._parked) or any(node.busy for node in self._nodes.values())

    def disconnect(self) -> None:
        """Refuse the parked commands, and disconnect from all servers at once."""
        if self._mending is not None:
            self._mending.cancel()
        self._refuse_parked(ConnectionError("disconnected"))
        for node in self._nodes.values():
            node.link.close()

    # -- which server has a partition -------------------------------------------------------------

    def route(self, partition: int) -> Node | None:
        """Return the server of a partition, as far as the topology knows it. While commands are parked, it has none."""
        url = self._topology.url_of(partition)
        if url is None or partition in self._parked:
            return None
        node = self.routes[partition] = self._node(url)
        return node

    async def node_of(self, partition: int) -> Node:
        """Return the server of a partition; look for it if need be. Raise PenstockError("valkey_unavailable")."""
        if self._topology.url_of(partition) is None:
            await self._refresh()
        url = self._topology.url_of(partition)
        if url is None:
            raise unavailable(_homeless(partition))
        return self._node(url)

    async def all_nodes(self) -> list[Node]:
        """Look which servers have partitions, and return them. Raise PenstockError("valkey_unavailable")."""
        await self._refresh()
        return [self._node(url) for url in self._topology.urls()]

    def _node(self, url: str) -> Node:
        node = self._nodes.get(url)
        if node is None:
            late_s = min(LATE_S, self._timeout) if self.moves else self._timeout
            node = Node(url, self._owner, self._acknowledged, late_s=late_s, timeout=self._timeout)
            self._nodes[url] = node
        return node

    # -- partitions that are elsewhere ------------------------------------------------------------

    def ran(self, partition: int) -> None:
        """Note that a server has run calls of this partition."""
        if self._elsewhere_since:
            self._elsewhere_since.pop(partition, None)

    def move(self, partition: int, commands: list[Command], error: Exception) -> None:
        """Park commands that a server did not run, unless that has gone on for too long."""
        now = self._loop.time()
        if now - self._elsewhere_since.setdefault(partition, now) > HOLD_S:
            refuse(self.routes.pop(partition, None), commands, error)
            self.mend()
        else:
            self.park(partition, commands)

    def park(self, partition: int, commands: list[Command]) -> None:
        """Keep commands until the topology is known anew."""
        self.routes.pop(partition, None)
        self._parked.setdefault(partition, []).extend(commands)
        self.mend()

    def mend(self) -> None:
        """Find out the topology, unless that is done already."""
        if self.moves and self._mending is None:
            self._mending = self._loop.create_task(self._send_parked())
            self._mending.add_done_callback(self._mended)

    def _mended(self, task: "asyncio.Task[None]") -> None:
        self._mending = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("the topology could not be found out", exc_info=error)
            self._refuse_parked(error)
        elif self._parked:
            self.mend()

    async def _send_parked(self) -> None:
        """Find out the topology, and send the parked commands to where it says."""
        # Somebody else may just have looked, and found no better place.
        await asyncio.sleep(max(0.0, self._looked_at + _PAUSE_S - self._loop.time()))
        try:
            await self._refresh()
        except (PenstockError, UrlError) as error:
            self._refuse_parked(error)
            return
        parked, self._parked = self._parked, {}
        for partition, commands in parked.items():
            node = self.route(partition)
            if node is None:
                self.move(partition, commands, _homeless(partition))
            else:
                for command in commands:
                    node.add(partition, command)

    def _refuse_parked(self, error: BaseException) -> None:
        parked, self._parked = self._parked, {}
        for commands in parked.values():
            refuse(None, commands, error)

    async def _refresh(self) -> None:
        """Ask for the topology, and leave servers that have no partitions any more.

        Raise PenstockError("valkey_unavailable").
        """
        try:
            await self._topology.refresh()
        except (OSError, TimeoutError, ReplyError) as error:
            raise unavailable(error) from None
        finally:
            self._looked_at = self._loop.time()
        self.routes.clear()
        served = set(self._topology.urls())
        for url in self._nodes.keys() - served:
            # Its calls fail at once: a primary that was replaced may never answer, and nobody should wait for it.
            self._nodes.pop(url).leave()


def refuse(node: Node | None, commands: list[Command], error: Any) -> None:
    """Fail the commands of a call that failed as a whole: connection lost, or server full, loading or a replica."""
    if node is not None:
        node.link.failed(error)
    failure = unavailable(error)
    for command in commands:
        if not command.answer.done():
            command.answer.set_exception(failure)


def _homeless(partition: int) -> Explained:
    return Explained(f"no server of the cluster has the hash slot of partition {partition}")
