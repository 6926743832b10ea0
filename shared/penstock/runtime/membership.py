"""Which instances of a service live, and which partitions are whose.

Every instance says so twice a second on `<root>.hint.alive.<service>` and is forgotten after 2 s of silence:
so long does the due work of one that was killed wait for its new owner.
A partition belongs to the instance that has the highest random weight for it (rendezvous hashing,
D. G. Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
Transactions on Networking 6(1), 1998): when one comes or goes, only its own partitions move.

Two owners of a partition are harmless, none is not: an instance that hears nobody owns everything. One that cannot
reach Valkey says nothing and owns nothing, as long as it hears another one.
"""

import asyncio
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

from nats.aio.subscription import Subscription

from penstock.bus.hints import Hints
from penstock.runtime.logging import Log

BEAT_S: Final = 0.5
FORGET_S: Final = 2.0


def weight(instance: str, key: str) -> bytes:
    """The random weight that this instance has for this key; bytes of one length, so they compare."""
    return blake2b(f"{instance}\0{key}".encode(), digest_size=8).digest()


def owner(instances: frozenset[str], key: str) -> str:
    """The instance that the key belongs to."""
    return max(instances, key=lambda instance: (weight(instance, key), instance))


class Membership:
    """The live instances of one service, as this instance sees them."""

    def __init__(
        self,
        hints: Hints,
        service: str,
        instance: str,
        partitions: int,
        log: Log,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.instance = instance
        self._hints = hints
        self._topic = f"alive.{service}"
        self._count = partitions
        self._log = log
        self._on_change = on_change
        self._heard: dict[str, float] = {}
        self._members = frozenset({instance})
        self._owned = frozenset(range(partitions))
        self._leader = True
        self._able = True
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def members(self) -> frozenset[str]:
        """All live instances that can work, this one among them unless it is `idle`."""
        return self._members

    @property
    def idle(self) -> bool:
        """Whether this instance leaves its share to others: it cannot work, and somebody else can."""
        return not self._able and bool(self._heard)

    def is_alone(self) -> bool:
        """Whether nobody else is there."""
        return self._members == frozenset({self.instance})

    def set_able(self, able: bool) -> None:
        """Whether this instance can do its work, that is, reaches Valkey. The others are told at once."""
        if able != self._able:
            self._able = able
            self._say(bye=not able)
            self._changed()

    def owned(self) -> frozenset[int]:
        """The partitions that this instance looks after."""
        return self._owned

    def is_leader(self) -> bool:
        """Whether this instance comes first. Only a hint: two may think so for a while."""
        return self._leader

    async def start(self) -> None:
        self._subscription = await self._hints.listen(self._topic, self._hear)
        self._task = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Says goodbye, so that the others take over at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._say(bye=True)
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _beat(self) -> None:
        while True:
            if self._able:
                self._say()
            self._forget()
            await asyncio.sleep(BEAT_S)

    def _say(self, bye: bool = False) -> None:
        self._hints.send(self._topic, {"instance": self.instance, "bye": bye})

    def _hear(self, beat: Any) -> None:
        instance = str(beat["instance"])
        if instance == self.instance:
            return
        known = instance in self._heard
        if beat["bye"]:
            if known:
                del self._heard[instance]
                self._changed()
            return
        self._heard[instance] = time.monotonic()
        if not known:
            if self._able:
                self._say()  # a newcomer should not have to wait for our next beat
            self._changed()

    def _forget(self) -> None:
        deadline = time.monotonic() - FORGET_S
        silent = [instance for instance, heard in self._heard.items() if heard < deadline]
        for instance in silent:
            del self._heard[instance]
        if silent:
            self._changed()

    def _changed(self) -> None:
        self._members = frozenset(self._heard if self.idle else {self.instance, *self._heard})
        self._owned = frozenset(
            number for number in range(self._count) if owner(self._members, str(number)) == self.instance
        )
        self._leader = owner(self._members, "leader") == self.instance
        self._log.debug("members changed", members=sorted(self._members), owned=len(self._owned))
        self._on_change()
