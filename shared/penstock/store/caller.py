"""Batched calls of a service's function in Valkey. The commands are opaque here; penstock.machine defines them.

Each command goes to the server that has its partition (store/servers.py), which sends it with others in one pipeline
(store/node.py). What a server did not run, because the partition is elsewhere now, is sent to the server that has it. A
call whose outcome is unknown is never sent again: its caller hears `valkey_unavailable`.
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
from penstock.store.link import is_elsewhere, unavailable
from penstock.store.node import MOST, Batch, Command, Node, Unsafe
from penstock.store.servers import Servers, refuse
from penstock.store.wire import ReplyError

__all__ = ["MOST", "Store"]

log = logging.getLogger(__name__)

OnHints = Callable[[int, dict[str, Any]], None]
Observer = Callable[[int, int, float], None]
"""Called after every FCALL with its partition, number of commands and seconds."""

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
        marked = self._acknowledged.wait is not None
        self._settings = _encode(msgspec.json.encode(limits or {}).decode()) + _encode(marked)
        self._on_hints = on_hints
        self._observer = observer
        self._skew = skew or (lambda: 0)
        self._timeout = timeout
        self._dev = dev
        self._servers = Servers(url, self, self._acknowledged, timeout=timeout)
        self._routes = self._servers.routes
        self._tasks: set[asyncio.Task[None]] = set()
        self._nonce = os.urandom(6).hex()
        self._calls = itertools.count(1)
        self._loop = asyncio.get_running_loop()

    async def ensure_library(self) -> None:
        """Load the library where the server's is older or missing (a failover may lose it).

        Raise PenstockError("valkey_unavailable"), UrlError or LibraryError.
        """
        for node in await self._servers.all_nodes():
            await library.ensure(partial(self._ask, node), dev=self._dev)

    async def execute(self, *command: Any) -> Any:
        """Run one plain Valkey command, outside the batches (for diagnostics and secrets).

        The first argument with a hash tag, `…{3}…`, says in which partition; without one, it is partition 0. Raise
        PenstockError("valkey_unavailable").
        """
        found = next(filter(None, (_PARTITION.search(str(argument)) for argument in command)), None)
        node = await self._servers.node_of(int(found[1]) if found else 0)
        return await self._ask(node, *command)

    async def execute_everywhere(self, *command: Any) -> list[Any]:
        """Run one plain Valkey command on every server that has partitions. Return the replies."""
        return [await self._ask(node, *command) for node in await self._servers.all_nodes()]

    async def _ask(self, node: Node, *command: Any) -> Any:
        """Run one plain command on a server. Raise PenstockError("valkey_unavailable")."""
        try:
            async with asyncio.timeout(self._timeout):
                wire = await node.link.open()
                return await wire.ask(*command)
        except _AWAY as error:
            if is_elsewhere(error):
                self._servers.mend()
            raise unavailable(error) from None

    async def close(self) -> None:
        """Wait for the calls under way, at most `timeout` seconds, and disconnect."""
        deadline = self._loop.time() + self._timeout
        while self._tasks or self._servers.busy:
            if self._loop.time() > deadline:
                break
            await asyncio.sleep(0.005)
        self.disconnect()

    def disconnect(self) -> None:
        """Disconnect at once."""
        self._servers.disconnect()

    # -- calls ------------------------------------------------------------------------------------

    def submit(self, partition: int, command: bytes, weight: int) -> "asyncio.Future[bytes]":
        """Queue a packed command of this weight. Return a future of its packed reply, which may be an error's.

        The future fails with PenstockError("valkey_unavailable") if no reply comes.
        """
        answer: asyncio.Future[bytes] = self._loop.create_future()
        node = self._routes.get(partition) or self._servers.route(partition)
        if node is None:
            self._servers.park(partition, [Command(command, weight, answer)])
        else:
            node.add(partition, Command(command, weight, answer))
        return answer

    async def look(self, commands: dict[int, bytes]) -> dict[int, bytes]:
        """Run packed commands that only read, in one FCALL on each server. Return the packed replies by partition.

        A partition is missing if its server is not known, cannot be reached, or had enough to do with the others.
        """
        servers: dict[Node, list[int]] = {}
        for partition in commands:
            if (node := self._routes.get(partition) or self._servers.route(partition)) is not None:
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
        """Return how a call begins: what changes with each call, then what stays (lua/core/dispatch.lua)."""
        nonce = f"{self._nonce}{next(self._calls):x}"
        changing = (self._skew(), nonce, os.urandom(16).hex(), random.random())
        return b"".join(map(_encode, changing)) + self._settings

    def frame(self, partition: int, commands: list[Command]) -> tuple[Any, ...]:
        """Return the FCALL of these commands (for `Node`)."""
        packed = (command.packed for command in commands)
        return ("FCALL", self._function, 1, self._key(partition), self._header(), *packed)

    def settle(self, node: Node, batch: Batch, reply: Any) -> None:
        """Answer the commands of a batch, or see to it that they are run after all (for `Node`)."""
        if isinstance(reply, list):
            node.link.answered()
            self._servers.ran(batch.partition)
            self._answer(batch, cast("list[bytes]", reply))
            if self._observer:
                self._observer(batch.partition, len(batch.commands), time.perf_counter() - batch.started)
        elif isinstance(reply, Unsafe):
            refuse(node, batch.commands, reply.why)
            self._pass_on(batch.partition, reply.replies[0])  # the effect is there
        elif not batch.again and isinstance(reply, ReplyError) and "Function not found" in str(reply):
            self._spawn(self._reload(node, batch))
        elif self._servers.moves and is_elsewhere(reply):
            self._servers.move(batch.partition, batch.commands, reply)
        else:
            refuse(node, batch.commands, reply)

    def unreachable(self, node: Node, pending: dict[int, list[Command]], error: Exception) -> None:
        """Find another server for commands that were not sent (for `Node`)."""
        for partition, commands in pending.items():
            if self._servers.moves:
                self._servers.move(partition, commands, error)
            else:
                refuse(node, commands, error)

    def late(self, node: Node) -> None:
        """Look at the topology, because a server is late (for `Node`)."""
        self._servers.mend()

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

    async def _reload(self, node: Node, batch: Batch) -> None:
        """Load the library, which is missing (after a failover or flush), and send the commands once more."""
        try:
            await library.ensure(partial(self._ask, node), dev=self._dev)
            wire = await node.link.open()
        except (*_AWAY, PenstockError, library.LibraryError) as error:
            refuse(node, batch.commands, error)
            return
        node.send_again(wire, batch)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
