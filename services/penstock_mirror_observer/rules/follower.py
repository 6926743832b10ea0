"""One rule or trigger at work: it receives messages and counts them. A subclass decides what to do with them.

All observers share a rule's messages: by a queue group on core NATS (best effort), or by one durable on a stream.
"""

import asyncio
import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from penstock.bus.consumer import Consumer
from penstock.bus.listening import listen, unsubscribe
from penstock.bus.outcomes import ACK, Outcome, Retry
from penstock.bus.published import read as read_published
from penstock.errors import PenstockError
from penstock.ids import uuid7
from penstock.machine.ops import mirror_observer as ops
from penstock_mirror_observer.rules.sources import Message

WAITING: Final = 50_000
"""Most messages of one rule on core NATS that may wait in memory."""
BATCH: Final = 256


class Incoming(NamedTuple):
    """A message for a rule to read. published_at: microseconds by JetStream's clock; None on core NATS."""

    message: Message
    message_id: str
    published_at: int | None


class Follower(ABC):
    """A mirror rule or trigger that receives messages from `start` to `stop`. kind: rule or trigger."""

    kind: str

    def __init__(self, name: str, subject: str, stream: str | None, revision: int) -> None:
        self.name = name
        self.revision = revision
        self._subject = subject
        self.stream = stream
        self.seen = self.applied = self.dropped = 0
        self.last_error: str | None = None
        self._subscription: Subscription | None = None
        self._consumer: Consumer | None = None
        self._waiting: list[Incoming] = []
        self._working: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None

    # -- where messages come from -----------------------------------------------------------------

    def durable(self, root: str) -> str | None:
        """Return the durable's name, None on core NATS. Another subject is another durable, from the stream's start."""
        if self.stream is None:
            return None
        part = hashlib.blake2b(self._subject.encode(), digest_size=4).hexdigest()
        return f"{root}-{self.kind}-{self.name}-{part}"

    def start(self, nats: Client, root: str) -> None:
        """Start in the background: the stream may be missing, and waiting for it must not delay other rules."""
        self._nats = nats
        self._starting = asyncio.get_running_loop().create_task(self._start(root))

    async def _start(self, root: str) -> None:
        if self.stream is None or (durable := self.durable(root)) is None:
            queue = f"{root}-{self.kind}-{self.name}"
            self._subscription = await listen(self._nats, self._subject, self._arrived, queue=queue)
        else:
            self._consumer = Consumer(self.stream, durable, self._handle, subject=self._subject)
            await self._consumer.start(self._nats, root)

    async def stop(self) -> None:
        """Stop receiving, then finish the messages already received."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        if self._consumer is not None:
            await self._consumer.stop()
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await unsubscribe(self._nats, [self._subscription])
        if self._working is not None:
            await self._working

    def _arrived(self, msg: Msg) -> None:
        if len(self._waiting) >= WAITING:
            self.seen += 1
            self.drop("too many messages at once: some are lost, as core NATS does")
            return
        message = Message(msg.subject, dict(msg.headers or {}), msg.data)
        message_id = message.headers.get("nats-msg-id") or uuid7()
        self._waiting.append(Incoming(message, message_id, None))
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        """Apply the waiting messages in batches. Core NATS never redelivers, so a message that fails is dropped."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                try:
                    missed = (await self.apply(batch)).count(False)
                except PenstockError:
                    missed = len(batch)
                if missed:
                    self.seen += missed
                    self.drop("Penstock's services or Valkey were away", missed)
        finally:
            self._working = None

    async def _handle(self, messages: list[Msg]) -> Sequence[Outcome]:
        incoming: list[Incoming] = []
        for msg in messages:
            published = read_published(msg, "")
            message = Message(msg.subject, dict(msg.headers or {}), msg.data)
            incoming.append(Incoming(message, published.message_id, published.published_at))
        return [ACK if done else Retry() for done in await self.apply(incoming)]

    # -- applying and counting messages -----------------------------------------------------------

    @abstractmethod
    async def apply(self, batch: Sequence[Incoming]) -> list[bool]:
        """Apply messages. Return for each whether it is done; False asks for a redelivery."""

    def drop(self, why: str, count: int = 1) -> None:
        self.dropped += count
        self.last_error = why[:512]

    def counted(self) -> ops.RuleCount | None:
        """Return the counts since the last call and reset them; None if nothing happened."""
        if not (self.seen or self.applied or self.dropped):
            return None
        count = ops.RuleCount(
            kind=self.kind,
            name=self.name,
            seen=self.seen,
            applied=self.applied,
            dropped=self.dropped,
            last_error=self.last_error,
        )
        self.seen = self.applied = self.dropped = 0
        self.last_error = None
        return count
