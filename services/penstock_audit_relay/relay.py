"""The loop: take, seal, publish, trim. While one batch is in flight, the next one is taken and sealed."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import NoStreamResponseError, NotFoundError

from penstock.backoff import Backoff
from penstock.errors import PenstockError
from penstock.throttle import Throttle
from penstock_audit_relay.batch import MAX_BYTES, MAX_EVENTS, Batch, Chain
from penstock_audit_relay.counting import Counts
from penstock_audit_relay.dead import DeadLetters
from penstock_audit_relay.outbox import Outbox
from penstock_audit_relay.position import recover
from penstock_audit_relay.publisher import NoStream, NotStored, Publisher, PublishError, Superseded
from penstock_audit_relay.rewound import Rewinds

SMALL: Final = 900
LINGER_S: Final = 0.03
"""Seconds to pause after the first new event, or after a batch of fewer than SMALL events that took all that was there.
Meanwhile more events gather: a larger batch costs less per event, and the relay leaves the CPU to the work that makes
events.
"""
STAND_BY_S: Final = 0.25

_EXPECTED: Final = (PublishError, NatsError, NotFoundError, PenstockError, TimeoutError, OSError)
"""Errors that pass by themselves. Any other error is a bug and is logged with its traceback."""
_NO_STREAM: Final = (NoStream, NotFoundError, NoStreamResponseError, NoRespondersError)
"""Errors of a missing stream or an absent JetStream. The streams are then created anew."""


class Relay:
    """Carries events from the outboxes to the stream, as long as `leads()`.

    `leads()` is only a hint that saves work; two relays may lead at once. They do no harm, because each batch
    expects a last sequence: the stream refuses the later batch, and its relay reads the end of the stream again.
    """

    def __init__(
        self,
        nats: Client,
        js: JetStreamContext,
        outbox: Outbox,
        rewinds: Rewinds,
        counts: Counts,
        *,
        root: str,
        stream: str,
        leads: Callable[[], bool],
        ensure: Callable[[], Awaitable[None]],
        sweep: float,
        log: Any,
        stores: Callable[[bool], None],
    ) -> None:
        """stores: told whether the stream stores what is published."""
        self.events: Counter[tuple[str, str]] = Counter()
        """How many events of each (entity, event) have entered the stream."""
        self.batches = 0
        self.failures = 0
        self.active = False
        self._nats = nats
        self._js = js
        self._outbox = outbox
        self._rewinds = rewinds
        self._counts = counts
        self._publisher = Publisher(nats)
        self._dead = DeadLetters(js, root, nats.max_payload, log)
        self._root = root
        self._stream = stream
        self._leads = leads
        self._ensure = ensure
        self._sweep = sweep
        self._log = log
        self._stores = stores
        self._not_stored = False
        self._backoff = Backoff(0.1, 5.0)
        self._complaints = Throttle()

    @property
    def dead_letters(self) -> int:
        return self._dead.kept

    async def run(self) -> None:
        """Run until cancelled: relay while leading, stand by otherwise, retry after every failure."""
        await self._publisher.start()
        try:
            while True:
                if self._leads() and self._nats.is_connected:
                    await self._try()
                else:
                    await asyncio.sleep(STAND_BY_S)
        finally:
            self.active = False
            await self._publisher.stop()

    async def _try(self) -> None:
        try:
            await self._relay()
            self._outbox.stand_by()
            self._log.info("standing by: another relay leads")
        except Superseded:
            self._log.info("another relay has published; reading where to go on")
            self.active = False
            await asyncio.sleep(random.uniform(0.1, 0.5))
        except Exception as error:
            self.active = False
            self.failures += 1
            self._not_stored = isinstance(error, NotStored)
            self._grumble(error)
            await self._outbox.look()
            await asyncio.sleep(self._backoff.next_s())
            if isinstance(error, _NO_STREAM):
                await self._mend()

    async def _relay(self) -> None:
        position = await recover(self._js, self._stream)
        if self._not_stored:  # yet its end could be read: the disk is full, or was (bus.streams.write_error)
            self._stores(False)
        chain = Chain(position, self._root, self._publisher.inbox)
        self._outbox.rewind(position.cursor)
        self._log.info("relaying", after=position.seq, cursor=position.cursor)
        self.active = True
        flying: tuple[Batch, asyncio.Future[None]] | None = None
        while self._leads():
            await self._outbox.exchange()
            entries = self._outbox.gather(MAX_EVENTS, MAX_BYTES)
            batch = chain.seal(entries) if entries else None
            if flying is not None:
                await flying[1]
                self._done(flying[0])
                flying = None
            if batch is not None:
                for entry in entries:
                    if entry.broken:
                        await self._dead.keep(entry)
                if batch.events:
                    flying = batch, await self._publisher.send(batch)
                else:
                    self._outbox.confirm(batch.cursor)
                if batch.events < SMALL and not self._outbox.at_hand:
                    await asyncio.sleep(LINGER_S)
            elif self._outbox.behind:
                await self._rewound(chain, next(iter(self._outbox.behind)))
            elif not self._outbox.busy:
                await self._outbox.wait(self._sweep)
                await asyncio.sleep(LINGER_S)
        if flying is not None:
            await flying[1]
            self._done(flying[0])
            await self._outbox.exchange()
        self.active = False

    async def _rewound(self, chain: Chain, partition: int) -> None:
        """Tell that the partition's Valkey has lost its newest changes, and go on with what it has."""
        entry = await self._rewinds.tell(partition)
        batch = chain.seal([entry])
        await (await self._publisher.send(batch))
        self._outbox.go_on(partition, entry.id)
        self._done(batch)

    def _done(self, batch: Batch) -> None:
        self._outbox.confirm(batch.cursor)
        self._stores(True)
        self.events.update(batch.kinds)
        for each in batch.told:
            self._counts.count(each)
        self.batches += 1
        self._backoff.reset()

    async def _mend(self) -> None:
        try:
            await self._ensure()
        except _EXPECTED as error:
            self._grumble(error)

    def _grumble(self, error: Exception) -> None:
        """Log the error, at a throttled rate; an unexpected error with its traceback."""
        if not self._complaints.passes():
            return
        expected = isinstance(error, _EXPECTED)
        self._log.warning(
            "audit events wait in their outboxes",
            error=str(error) or repr(error),
            exc_info=None if expected else error,
        )
