"""The live instances of a service, and which instance owns which partition.

Every instance sends a heartbeat twice a second on `<root>.hint.alive.<service>` and is dropped after 2 s of
silence; the due work of a killed instance waits that long for its new owner.
A partition belongs to the instance that has the highest random weight for it (rendezvous hashing,
D. G. Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
Transactions on Networking 6(1), 1998): when an instance comes or goes, only its own partitions move.

Two owners of a partition do no harm, but no owner does: an instance that hears no other owns all partitions. An
instance that cannot reach Valkey sends no heartbeats, and owns no partition as long as it hears another instance.
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
    """Return the pseudo-random weight of an instance for a key: 8 bytes, to be compared with other weights."""
    return blake2b(f"{instance}\0{key}".encode(), digest_size=8).digest()


def owner(instances: frozenset[str], key: str) -> str:
    """Return the instance that owns the key: the one with the highest weight."""
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
        """All live instances that can work, including this instance unless it is `idle`."""
        return self._members

    @property
    def idle(self) -> bool:
        """Whether this instance leaves its work to others: it cannot work, and another instance can."""
        return not self._able and bool(self._heard)

    def is_alone(self) -> bool:
        """Return whether this instance is the only member."""
        return self._members == frozenset({self.instance})

    def set_able(self, able: bool) -> None:
        """Set whether this instance can work (reaches Valkey), and tell the other instances at once."""
        if able != self._able:
            self._able = able
            self._say(bye=not able)
            self._changed()

    def owned(self) -> frozenset[int]:
        """Return the numbers of the partitions that this instance owns."""
        return self._owned

    def is_leader(self) -> bool:
        """Return whether this instance is the leader. Not exclusive: for a while two instances may both be leader."""
        return self._leader

    async def start(self) -> None:
        self._subscription = await self._hints.listen(self._topic, self._hear)
        self._task = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Send a goodbye, so that the other instances take over at once."""
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
                self._say()  # answer a new instance at once, so that it need not wait for the next heartbeat
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
