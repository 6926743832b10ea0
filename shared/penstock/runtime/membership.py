"""Which instances of a service live, and which partitions are whose.

Every instance says so each second on `<root>.hint.alive.<service>` and is forgotten after 3.5 s of silence.
A partition belongs to the instance that has the highest random weight for it (rendezvous hashing,
D. G. Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
Transactions on Networking 6(1), 1998): when one comes or goes, only its own partitions move.

Two owners of a partition are harmless, none is not: an instance that hears nobody owns everything.
"""

import asyncio
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from penstock.runtime.logging import Log

BEAT: Final = 1.0
FORGET: Final = 3.5


class Beat(Struct, omit_defaults=True):
    """What is said: who, and whether it is a goodbye."""

    instance: str
    bye: bool = False


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
        nats: Client,
        root: str,
        service: str,
        instance: str,
        partitions: int,
        log: Log,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.subject = f"{root}.hint.alive.{service}"
        self._nats = nats
        self._instance = instance
        self._count = partitions
        self._log = log
        self._on_change = on_change
        self._heard: dict[str, float] = {}
        self._members = frozenset({instance})
        self._owned = frozenset(range(partitions))
        self._leader = True
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._decode = msgspec.json.Decoder(Beat).decode

    @property
    def members(self) -> frozenset[str]:
        """All live instances, this one among them."""
        return self._members

    def owned(self) -> frozenset[int]:
        """The partitions that this instance looks after."""
        return self._owned

    def is_leader(self) -> bool:
        """Whether this instance comes first. Only a hint: two may think so for a while."""
        return self._leader

    async def start(self) -> None:
        self._subscription = await self._nats.subscribe(  # pyright: ignore[reportUnknownMemberType]
            self.subject, cb=self._hear
        )
        self._task = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Says goodbye, so that the others take over at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._subscription is not None and not self._nats.is_closed:
            await self._say(bye=True)
            await self._subscription.unsubscribe()

    async def _beat(self) -> None:
        while True:
            await self._say()
            self._forget()
            await asyncio.sleep(BEAT)

    async def _say(self, bye: bool = False) -> None:
        if self._nats.is_connected:  # never buffered: an old "alive" is no news
            try:
                await self._nats.publish(self.subject, msgspec.json.encode(Beat(self._instance, bye)))
            except Exception as error:
                self._log.debug("could not say alive", error=repr(error))

    async def _hear(self, message: Msg) -> None:
        try:
            beat = self._decode(message.data)
        except msgspec.MsgspecError:
            return
        if beat.instance == self._instance:
            return
        if beat.bye:
            if self._heard.pop(beat.instance, None) is not None:
                self._changed()
            return
        known = beat.instance in self._heard
        self._heard[beat.instance] = time.monotonic()
        if not known:
            await self._say()  # a newcomer should not have to wait for our next beat
            self._changed()

    def _forget(self) -> None:
        deadline = time.monotonic() - FORGET
        silent = [instance for instance, heard in self._heard.items() if heard < deadline]
        for instance in silent:
            del self._heard[instance]
        if silent:
            self._changed()

    def _changed(self) -> None:
        self._members = frozenset({self._instance, *self._heard})
        self._owned = frozenset(
            number for number in range(self._count) if owner(self._members, str(number)) == self._instance
        )
        self._leader = owner(self._members, "leader") == self._instance
        self._log.debug("members changed", members=sorted(self._members), owned=len(self._owned))
        self._on_change()
