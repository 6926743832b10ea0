"""Keeps the rules and triggers at work in this process equal to those stored in Valkey."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from penstock.bus.requester import Requester
from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import mirror_observer as ops
from penstock.messages.mirror_rules import MirrorRulePut
from penstock.messages.triggers import TriggerPut
from penstock.runtime.logging import Log
from penstock_mirror_observer.rules.follower import Follower
from penstock_mirror_observer.rules.mirroring import Mirroring
from penstock_mirror_observer.rules.rule import Rule
from penstock_mirror_observer.rules.stored import RULES_AT
from penstock_mirror_observer.rules.trigger import Trigger
from penstock_mirror_observer.rules.triggering import Triggering

PAGE: Final = 100


class Following:
    """Starts and stops followers as rules and triggers are created, changed and deleted."""

    def __init__(self, machine: Machine, nats: Client, root: str, sweep_s: float, log: Log) -> None:
        self._machine = machine
        self._nats = nats
        self._js: JetStreamContext = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
        self._root = root
        self._sweep_s = sweep_s
        self._log = log
        self._version = -1
        self._followers: dict[tuple[str, str], Follower] = {}
        self._requester = Requester(nats, root)
        self._kinds: dict[str, Callable[[ops.RuleKept], Follower]] = {
            "rule": lambda kept: Mirroring(
                machine, Rule(msgspec.json.decode(kept.body, type=MirrorRulePut), kept.revision)
            ),
            "trigger": lambda kept: Triggering(
                self._requester, Trigger(msgspec.json.decode(kept.body, type=TriggerPut), kept.revision)
            ),
        }
        self._changed = asyncio.Event()

    def changed(self, _partition: int, _value: object) -> None:
        """Handle the `rules` hint: some rule or trigger has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Follow the stored rules until cancelled. Look again at every hint, and at least every sweep."""
        try:
            while True:
                self._changed.clear()
                try:
                    await self._look()
                    await self._count()
                except PenstockError as error:
                    if not error.retryable:
                        raise
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._sweep_s):
                        await self._changed.wait()
        finally:
            followers = list(self._followers.values())
            self._followers.clear()
            for follower in followers:
                await follower.stop()
            with contextlib.suppress(PenstockError):
                await self._tell(followers)
            self._version = -1

    async def _look(self) -> None:
        version = (await self._machine.run(ops.RulesVersion(), at=RULES_AT)).version
        if version == self._version:
            return
        kept: dict[tuple[str, str], ops.RuleKept] = {}
        for kind in self._kinds:
            cursor: str | None = None
            while True:
                more = ops.RuleList(kind=kind, cursor=cursor, limit=PAGE)
                page = await self._machine.run(more, at=RULES_AT)
                kept |= {(kind, each.name): each for each in page.items}
                if (cursor := page.cursor) is None:
                    break
        for key, follower in list(self._followers.items()):
            if key not in kept or kept[key].revision != follower.revision:
                await follower.stop()
                await self._tell([follower])
                del self._followers[key]
                successor = self._made(key, kept[key]) if key in kept else None
                if successor is None or successor.durable(self._root) != follower.durable(self._root):
                    await self._delete_durable(follower)
        for key, each in kept.items():
            if key not in self._followers and (follower := self._made(key, each)) is not None:
                self._followers[key] = follower
                follower.start(self._nats, self._root)
        self._version = version

    def _made(self, key: tuple[str, str], kept: ops.RuleKept) -> Follower | None:
        try:
            return self._kinds[key[0]](kept)
        except (PenstockError, msgspec.MsgspecError) as error:  # a newer Penstock stored it
            self._log.error("it cannot be followed here", kind=key[0], name=kept.name, error=str(error))
            return None

    async def _delete_durable(self, follower: Follower) -> None:
        """Delete the follower's durable, so that the stream keeps no messages for it. An observer that still follows
        the old rule may create the durable again; the last observer to stop deletes it for good."""
        if follower.stream is not None and (durable := follower.durable(self._root)) is not None:
            with contextlib.suppress(NatsError, TimeoutError):
                await self._js.delete_consumer(follower.stream, durable)

    async def _count(self) -> None:
        await self._tell(list(self._followers.values()))

    async def _tell(self, followers: Sequence[Follower]) -> None:
        counts = [count for follower in followers if (count := follower.counted()) is not None]
        await self._machine.run_many(counts, [RULES_AT] * len(counts))
