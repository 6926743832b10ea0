"""Batched calls of a service's function in Valkey. The commands are opaque here; penstock.machine defines them.

Each command goes to the server that has its partition (store/topology.py), which sends it with others in one pipeline
(store/node.py). What a server did not run, because the partition is elsewhere now, is parked, and sent again once the
topology is known anew. A call whose outcome is unknown is never sent again: its caller hears `valkey_unavailable`.
"""

import asyncio
import itertools
import logging
import math
import os
import random
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import msgspec

from penstock.errors import PenstockError
from penstock.store import library
from penstock.store.acknowledged import Acknowledged
from penstock.store.link import LATE_S, Explained, is_elsewhere, unavailable
from penstock.store.node import MOST, Batch, Command, Node, Unsafe
from penstock.store.places import UrlError, parse
from penstock.store.topology import topology_of
from penstock.store.wire import ReplyError

__all__ = ["MOST", "Store"]

log = logging.getLogger(__name__)

OnHints = Callable[[int, dict[str, Any]], None]
Observer = Callable[[int, int, float], None]
"""Called after every FCALL with its partition, number of commands and seconds."""

HOLD_S: Final = 2.0
"""For this long the commands of a partition that no server runs are parked. After that they are refused at once."""
_PAUSE_S: Final = 0.05
_PARTITION: Final = re.compile(r"\{(\d+)\}")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_AWAY: Final = (OSError, TimeoutError, ReplyError)


class Store:
    """One service's calls of its own function, `penstock_<service>`."""

    def __init__(
        self,
        url: str,
        *,
        service: str,
        root: str = "penstock",
        acknowledged: str = "process",
        limits: dict[str, int] | None = None,
        on_hints: OnHints | None = None,
        observer: Observer | None = None,
        skew: Callable[[], int] | None = None,
        timeout: float = 15.0,
        dev: bool = False,
    ) -> None:
        """Raise UrlError for a wrong URL (store/places.py)."""
        self.root = root
        self._function = f"penstock_{service.replace('-', '_')}"
        self._acknowledged = Acknowledged(acknowledged)
        self._limits = limits or {}
        self._on_hints = on_hints
        self._observer = observer
        self._skew = skew or (lambda: 0)
        self._timeout = timeout
        self._dev = dev
        self._topology = topology_of(parse(url))
        self._nodes: dict[str, Node] = {}
        self._routes: dict[int, Node] = {}
        """The server of each partition; of a partition whose server is not known, there is none."""
        self._parked: dict[int, list[Command]] = {}
        self._elsewhere_since: dict[int, float] = {}
        """Since when no server runs the calls of a partition, by the loop's clock."""
        self._mending: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._nonce = os.urandom(6).hex()
        self._calls = itertools.count(1)
        self._loop = asyncio.get_running_loop()

    async def ensure_library(self) -> None:
        """Load the library where the server's is older or missing (a failover may lose it).

        Raise PenstockError("valkey_unavailable"), UrlError or LibraryError.
        """
        for node in await self._all_nodes():
            await library.ensure(partial(self._ask, node), dev=self._dev)

    async def execute(self, *command: Any) -> Any:
        """Run one plain Valkey command, outside the batches (for diagnostics and secrets).

        The first argument with a hash tag, `…{3}…`, says in which partition; without one, it is partition 0. Raise
        PenstockError("valkey_unavailable").
        """
        found = next(filter(None, (_PARTITION.search(str(argument)) for argument in command)), None)
        node = await self._node_of(int(found[1]) if found else 0)
        return await self._ask(node, *command)

    async def execute_everywhere(self, *command: Any) -> list[Any]:
        """Run one plain Valkey command on every server that has partitions. Return the replies."""
        return [await self._ask(node, *command) for node in await self._all_nodes()]

    async def close(self) -> None:
        """Wait for the calls under way, at most `timeout` seconds, and disconnect."""
        deadline = self._loop.time() + self._timeout
        while self._tasks or self._parked or any(node.busy for node in self._nodes.values()):
            if self._loop.time() > deadline:
                break
            await asyncio.sleep(0.005)
        self.disconnect()

    def disconnect(self) -> None:
        """Disconnect at once."""
        if self._mending is not None:
            self._mending.cancel()
        self._refuse_parked(ConnectionError("disconnected"))
        for node in self._nodes.values():
            node.link.close()

    # -- calls ------------------------------------------------------------------------------------

    def submit(self, partition: int, command: bytes, weight: int) -> "asyncio.Future[bytes]":
        """Queue a packed command of this weight. Return a future of its packed reply, which may be an error's.

        The future fails with PenstockError("valkey_unavailable") if no reply comes.
        """
        answer: asyncio.Future[bytes] = self._loop.create_future()
        node = self._routes.get(partition) or self._route(partition)
        if node is None:
            self._park(partition, [Command(command, weight, answer)])
        else:
            node.add(partition, Command(command, weight, answer))
        return answer

    async def look(self, commands: dict[int, bytes]) -> dict[int, bytes]:
        """Run packed commands that only read, in one FCALL on each server. Return the packed replies by partition.

        A partition is missing if its server is not known, cannot be reached, or had enough to do with the others.
        """
        servers: dict[Node, list[int]] = {}
        for partition in commands:
            if (node := self._routes.get(partition) or self._route(partition)) is not None:
                servers.setdefault(node, []).append(partition)
        found: dict[int, bytes] = {}
        for node, partitions in servers.items():
            asked = [each for p in partitions for each in (self._key(p), commands[p])]
            try:
                replies = await self._ask(node, "FCALL", self._function, 0, self._header(), *asked)
            except PenstockError:
                continue
            if self._acknowledged.wait is None:
                node.link.answered()
            found |= zip(partitions, replies, strict=False)
        return found

    def heard_s(self) -> float:
        """Return for how many seconds nothing has shown that the server of partition 0 acknowledges calls.

        Infinite without a connection, if a call has failed since, and if one has waited for longer than LATE_S.
        """
        node = self._routes.get(0)
        return math.inf if node is None else node.heard_s()

    def _key(self, partition: int) -> str:
        return f"{self.root}:{{{partition}}}"

    def _header(self) -> bytes:
        header: dict[str, Any] = {
            "skew": self._skew(),
            "nonce": f"{self._nonce}{next(self._calls):x}",
            "secret": os.urandom(16).hex(),
            "random": random.random(),
            "limits": self._limits,
        }
        if self._acknowledged.wait is not None:
            header["mark"] = True
        return _encode(header)

    def frame(self, partition: int, commands: list[Command]) -> tuple[Any, ...]:
        """Return the FCALL of these commands (for `Node`)."""
        packed = (command.packed for command in commands)
        return ("FCALL", self._function, 1, self._key(partition), self._header(), *packed)

    def settle(self, node: Node, batch: Batch, reply: Any) -> None:
        """Answer the commands of a batch, or see to it that they are run after all (for `Node`)."""
        if isinstance(reply, list):
            node.link.answered()
            if self._elsewhere_since:
                self._elsewhere_since.pop(batch.partition, None)
            self._answer(batch, cast("list[bytes]", reply))
            if self._observer:
                self._observer(batch.partition, len(batch.commands), time.perf_counter() - batch.started)
        elif isinstance(reply, Unsafe):
            self._refuse(node, batch.commands, reply.why)
            self._pass_on(batch.partition, reply.replies[0])  # the effect is there
        elif not batch.again and isinstance(reply, ReplyError) and "Function not found" in str(reply):
            self._spawn(self._reload(node, batch))
        elif self._topology.moves and is_elsewhere(reply):
            self._move(batch.partition, batch.commands, reply)
        else:
            self._refuse(node, batch.commands, reply)

    def unreachable(self, node: Node, pending: dict[int, list[Command]], error: Exception) -> None:
        """Find another server for commands that were not sent (for `Node`)."""
        for partition, commands in pending.items():
            if self._topology.moves:
                self._move(partition, commands, error)
            else:
                self._refuse(node, commands, error)

    def late(self, node: Node) -> None:
        """Look at the topology, because a server is late (for `Node`)."""
        self._mend()

    def _answer(self, batch: Batch, replies: list[bytes]) -> None:
        for command, reply in zip(batch.commands, replies[1:], strict=True):
            if not command.answer.done():
                command.answer.set_result(reply)
        self._pass_on(batch.partition, replies[0])

    def _pass_on(self, partition: int, packed: bytes) -> None:
        """Pass on the hints of a call."""
        if not packed:
            return
        hints = cast("dict[str, Any]", _decode(packed))
        for fault in hints.get("faults", ()):
            log.error("the state machine failed: %s", fault)
        if self._on_hints:
            try:
                self._on_hints(partition, hints)
            except Exception:
                log.exception("the hints of a call could not be passed on")

    def _refuse(self, node: Node | None, commands: list[Command], error: Any) -> None:
        """Fail the commands of a call that failed as a whole: connection lost, or server full, loading or a replica."""
        if node is not None:
            node.link.failed(error)
        failure = unavailable(error)
        for command in commands:
            if not command.answer.done():
                command.answer.set_exception(failure)

    async def _reload(self, node: Node, batch: Batch) -> None:
        """Load the library, which is missing (after a failover or flush), and send the commands once more."""
        try:
            await library.ensure(partial(self._ask, node), dev=self._dev)
            wire = await node.link.open()
        except (*_AWAY, PenstockError, library.LibraryError) as error:
            self._refuse(node, batch.commands, error)
            return
        node.send_again(wire, batch)

    # -- servers ----------------------------------------------------------------------------------

    def _route(self, partition: int) -> Node | None:
        """Return the server of a partition, as far as the topology knows it."""
        url = self._topology.url_of(partition)
        if url is None or partition in self._parked:
            return None
        node = self._routes[partition] = self._node(url)
        return node

    def _node(self, url: str) -> Node:
        node = self._nodes.get(url)
        if node is None:
            late_s = min(LATE_S, self._timeout) if self._topology.moves else self._timeout
            node = Node(url, self, self._acknowledged, late_s=late_s, timeout=self._timeout)
            self._nodes[url] = node
        return node

    async def _node_of(self, partition: int) -> Node:
        if self._topology.url_of(partition) is None:
            await self._refresh()
        url = self._topology.url_of(partition)
        if url is None:
            raise unavailable(_homeless(partition))
        return self._node(url)

    async def _all_nodes(self) -> list[Node]:
        await self._refresh()
        return [self._node(url) for url in self._topology.urls()]

    async def _ask(self, node: Node, *command: Any) -> Any:
        """Run one plain command on a server. Raise PenstockError("valkey_unavailable")."""
        try:
            async with asyncio.timeout(self._timeout):
                wire = await node.link.open()
                return await wire.ask(*command)
        except _AWAY as error:
            if is_elsewhere(error):
                self._mend()
            raise unavailable(error) from None

    def _move(self, partition: int, commands: list[Command], error: Exception) -> None:
        """Park commands that a server did not run, unless that has gone on for too long."""
        now = self._loop.time()
        if now - self._elsewhere_since.setdefault(partition, now) > HOLD_S:
            self._refuse(self._routes.pop(partition, None), commands, error)
            self._mend()
        else:
            self._park(partition, commands)

    def _park(self, partition: int, commands: list[Command]) -> None:
        self._routes.pop(partition, None)
        self._parked.setdefault(partition, []).extend(commands)
        self._mend()

    def _refuse_parked(self, error: BaseException) -> None:
        parked, self._parked = self._parked, {}
        for commands in parked.values():
            self._refuse(None, commands, error)

    def _mend(self) -> None:
        """Find out the topology, unless that is done already."""
        if self._topology.moves and self._mending is None:
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
            self._mend()

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
            node = self._route(partition)
            if node is None:
                self._move(partition, commands, _homeless(partition))
            else:
                for command in commands:
                    node.add(partition, command)

    async def _refresh(self) -> None:
        """Ask for the topology, and leave servers that have no partitions any more.

        Raise PenstockError("valkey_unavailable").
        """
        try:
            await self._topology.refresh()
        except _AWAY as error:
            raise unavailable(error) from None
        finally:
            self._looked_at = self._loop.time()
        self._routes.clear()
        served = set(self._topology.urls())
        for url in self._nodes.keys() - served:
            # Its calls fail at once: a primary that was replaced may never answer, and nobody should wait for it.
            self._nodes.pop(url).leave()

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _homeless(partition: int) -> Explained:
    return Explained(f"no server of the cluster has the hash slot of partition {partition}")
