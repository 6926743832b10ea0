"""A durable pull consumer: it handles messages in batches; each is acked, retried or sent to the dead letters.

The consumer keeps a pull request open at the server, so that a published message arrives at once, and pulls
again when half of the request is used. It detects server restarts, lost requests and a deleted durable (by idle
heartbeats and reconnects) and recovers: nats-py's own `fetch` stays silent forever after some of these.
"""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from penstock.backoff import Backoff
from penstock.bus import streams
from penstock.bus.dead_letters import DeadLetters
from penstock.bus.endpoints import unsubscribe
from penstock.bus.outcomes import Ack, Dead, Outcome, Retry
from penstock.bus.trimming import Trimming
from penstock.errors import PenstockError

log: Final = logging.getLogger("penstock.bus")


MessageHandler = Callable[[list[Msg]], Awaitable[Sequence[Outcome]]]

_ACKS: Final = "$JS.ACK."
_EXPIRES_S: Final = 30.0
_MISSED_HEARTBEATS: Final = 2.5
_WATCH_S: Final = 0.25
# The pause before an ordered consumer handles its retried messages again.
_HOLD_S: Final = 0.25
_STOP_S: Final = 10.0
# The pause before a message comes again whose dead letter could not be stored.
_LETTER_PAUSE_S: Final = 5.0
_MAX_BACKOFF_S: Final = 60.0
_MAX_ACK_PENDING: Final = 10_000
# A message is dead after this many deliveries if its handler still fails with an untyped exception.
_MAX_FAILURES: Final = 10


class Consumer:
    """A durable consumer of one of Penstock's streams (`streams.SIGNALS` …), shared by all instances of a service.

    The handler gets up to `batch` messages and returns an outcome for each. This process keeps the messages that
    it holds, however long the handler takes; if the process dies, the server redelivers them to another instance
    after `ack_wait` seconds. The handler must therefore be idempotent.

    `in_order`: messages are handled in stream order. Only one instance takes messages (`share` tells which), a
    message that must be retried blocks later ones, and the messages that a dead instance held are handled by its
    successor before any later ones.

    `subject`: `stream` is the full name of a stream that Penstock does not own; only messages of this subject are
    taken. A missing stream is not created, and messages of other subjects are never acked.
    """

    def __init__(
        self,
        stream: str,
        durable: str,
        handler: MessageHandler,
        *,
        batch: int = 256,
        ack_wait: float = 5.0,
        heartbeat: float = 2.0,
        in_order: bool = False,
        subject: str | None = None,
    ) -> None:
        self._subject = subject
        self.stream = stream
        self.durable = durable
        self.acked = self.retried = self.dead = 0  # for the metrics
        self._handler = handler
        self._batch = batch
        self._ack_wait = ack_wait
        self._heartbeat = heartbeat
        self.in_order = in_order
        self._catching_up = False
        self._buffer: deque[Msg] = deque()
        self._in_hand: list[Msg] = []
        self._asked = 0  # messages that the open pull requests may still deliver
        self._wake = asyncio.Event()
        self._lost = False
        self._taking = True
        self._stopping = False
        self._subscription: Subscription | None = None
        self._trimming: Trimming | None = None
        self._running: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(
        self,
        nats: Client,
        root: str,
        replicas: int = 1,
        bounds: streams.Bounds = streams.Bounds(),  # noqa: B008 - it is immutable
        *,
        taking: bool = True,
    ) -> None:
        """Start handling messages once JetStream answers; with `taking=False`, only after `share(True)`.

        Create a missing stream, unless it is one that Penstock does not own (`subject`).
        """
        self._taking, self._catching_up = False, False
        self._nats = nats
        self._js = nats.jetstream()
        self._root = root
        self._replicas = replicas
        self._bounds = bounds
        self._name = self.stream if self._subject else streams.stream_name(root, self.stream)
        self._letters = DeadLetters(nats, root, self._name, self._buried)
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._reconnects = nats.stats["reconnects"]
        self._inbox = nats.new_inbox()
        await self.share(taking)
        await self._mend()
        self._running = self._loop.create_task(self._run())
        self._watching = self._loop.create_task(self._watch())
        if not self._subject:
            self._trimming = Trimming(self._js, self._name, self.durable)

    async def share(self, taking: bool) -> None:
        """Stop pulling, so that other instances get the messages, or pull again. Messages already here are handled."""
        if taking == self._taking:
            return
        self._taking = self._catching_up = taking
        if taking:
            self._subscription = await self._nats.subscribe(
                self._inbox, cb=self._arrived, pending_bytes_limit=0
            )
            self._lost = True
            self._wake.set()
        else:
            await self._unlisten()

    async def _unlisten(self) -> None:
        """Unsubscribe from the inbox; this also ends the open pull request."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await unsubscribe(self._nats, [subscription])

    async def stop(self) -> None:
        """Stop pulling, finish the running batch, and return (nak) the buffered messages to the stream."""
        self._stopping = True
        await self._unlisten()
        self._wake.set()
        if self._watching is not None:
            self._watching.cancel()
        if self._running is not None:  # None if `stop` comes before `start` has finished
            _, late = await asyncio.wait({self._running}, timeout=_STOP_S)
            for task in late:
                task.cancel()
            await self._letters.finish(_STOP_S)
        while self._buffer:
            await self._send(self._buffer.popleft().reply, b"-NAK")
        if self._trimming is not None:
            await self._trimming.stop()

    async def _arrived(self, msg: Msg) -> None:
        if msg.reply and not msg.reply.startswith(_ACKS):
            return  # not JetStream's: an outcome must not be published where a stranger points
        self._heard = self._loop.time()
        if msg.reply:
            self._buffer.append(msg)
            self._asked -= 1
            self._wake.set()
            return
        headers = msg.headers or {}
        status = headers.get("Status")
        if status == "100":  # idle heartbeat
            return
        if status in ("404", "408"):  # a pull request expired with this many messages undelivered
            self._asked -= int(headers.get("Nats-Pending-Messages", self._asked))
        else:
            log.warning("%s/%s: %s %s", self._name, self.durable, status, headers.get("Description", ""))
            self._lost = True
        self._wake.set()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._step()
            except Exception:  # unacked messages are redelivered after ack_wait
                log.exception("%s/%s: going on after a bug", self._name, self.durable)
                await asyncio.sleep(_WATCH_S)

    async def _step(self) -> None:
        # Clear the event before checking any state: whatever changes from here on ends the wait below at once.
        self._wake.clear()
        if self._lost:
            await self._mend()
        if self._catching_up and self.in_order:
            await self._leftovers()
        self._catching_up = False
        await self._pull()
        if not self._buffer:
            await self._wake.wait()
            return
        self._in_hand = [self._buffer.popleft() for _ in range(min(len(self._buffer), self._batch))]
        try:
            while self._in_hand:
                outcomes = await self._outcomes(self._in_hand)
                self._in_hand = await self._settle(self._in_hand, outcomes)
                if self._in_hand:
                    await asyncio.sleep(_HOLD_S)
        finally:
            self._in_hand = []

    async def _leftovers(self) -> None:
        """Wait until every message delivered earlier is settled, or `ack_wait` has passed: the server redelivers
        the unsettled ones before it delivers new ones."""
        deadline = self._loop.time() + self._ack_wait + _WATCH_S
        reached: int | None = None
        while not self._stopping and self._taking and self._loop.time() < deadline:
            with contextlib.suppress(NatsError, TimeoutError):
                info = await self._js.consumer_info(self._name, self.durable)
                if not info.num_ack_pending or info.delivered is None or info.ack_floor is None:
                    return
                reached = info.delivered.stream_seq if reached is None else reached
                if info.ack_floor.stream_seq >= reached:
                    return
            await asyncio.sleep(min(_WATCH_S, self._ack_wait / 4))

    async def _watch(self) -> None:
        """Extend the ack deadlines of held messages; after a reconnect or silence, count the pull request as lost."""
        kept = self._loop.time()
        while True:
            await asyncio.sleep(min(_WATCH_S, self._ack_wait / 4))
            if not self._nats.is_connected:
                continue
            if self._loop.time() - kept >= self._ack_wait / 4:
                kept = self._loop.time()
                for msg in [*self._in_hand, *self._letters.messages, *self._buffer]:
                    await self._send(msg.reply, b"+WPI")
            if not self._taking:
                continue
            reconnects = self._nats.stats["reconnects"]
            silent = self._loop.time() - self._heard > self._heartbeat * _MISSED_HEARTBEATS
            if silent or reconnects != self._reconnects:
                self._reconnects = reconnects
                self._heard = self._loop.time()
                self._lost = True
                self._wake.set()

    async def _pull(self) -> None:
        wanted = self._batch - max(self._asked, 0) - len(self._buffer)
        if wanted < self._batch // 2 or self._stopping or not self._taking:
            return
        request = {
            "batch": wanted,
            "expires": int(_EXPIRES_S * 1e9),
            "idle_heartbeat": int(self._heartbeat * 1e9),
        }
        self._asked = max(self._asked, 0) + wanted
        await self._send(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._name}.{self.durable}",
            json.dumps(request).encode(),
            self._inbox,
        )

    async def _mend(self) -> None:
        """Make sure that the durable exists, retrying with backoff, and reset the count of requested messages."""
        backoff = Backoff(_WATCH_S, 5.0)
        while not self._stopping:
            self._lost = False  # a loss noticed from here on leads to another `_mend`
            try:
                await self._ensure()
                break
            except (NatsError, TimeoutError) as error:
                log.warning("%s/%s: not there yet: %s", self._name, self.durable, error)
            await asyncio.sleep(backoff.next_s())
        self._heard = self._loop.time()
        self._asked = 0

    async def _ensure(self) -> None:
        config = ConsumerConfig(
            name=self.durable,
            durable_name=self.durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait,
            max_ack_pending=_MAX_ACK_PENDING,
            filter_subject=self._subject,
        )
        try:
            await self._js.add_consumer(self._name, config)
        except NotFoundError:
            if self._subject:
                raise
            await streams.ensure(self._js, self._root, self._replicas, self._bounds)
            await self._js.add_consumer(self._name, config)

    async def _outcomes(self, batch: list[Msg]) -> Sequence[Outcome]:
        """Run the handler. If it fails on a batch, run it message by message, so that one cannot spoil the others."""
        try:
            outcomes = await self._handler(batch)
            if len(outcomes) != len(batch):
                raise RuntimeError(f"{len(outcomes)} outcomes for {len(batch)} messages")
            return outcomes
        except Exception as error:
            if isinstance(error, PenstockError) and error.retryable:
                return [Retry(_backoff(msg)) for msg in batch]
            if len(batch) > 1:
                return [(await self._outcomes([msg]))[0] for msg in batch]
            return [self._failed(batch[0], error)]

    def _failed(self, msg: Msg, error: Exception) -> Outcome:
        if isinstance(error, PenstockError):
            return Dead(f"{error.code}: {error.message}")
        log.error("%s/%s: the handler failed", self._name, self.durable, exc_info=error)
        if msg.metadata.num_delivered >= _MAX_FAILURES:
            return Dead(f"internal: the handler failed {_MAX_FAILURES} times")
        return Retry(_backoff(msg))

    async def _settle(self, batch: list[Msg], outcomes: Sequence[Outcome]) -> list[Msg]:
        """Send the outcomes to the server. Return the messages that an ordered consumer holds to retry in order.

        Dead letters are stored meanwhile: they do not hold up the messages behind them.
        """
        held: list[Msg] = []
        dead: list[tuple[Msg, str]] = []
        for msg, outcome in zip(batch, outcomes, strict=True):
            match outcome:
                case Ack():
                    self.acked += 1
                    await self._done(msg, b"")
                case Retry(delay):
                    self.retried += 1
                    if self.in_order and not self._stopping:
                        held.append(msg)
                    else:
                        await self._nak(msg, delay)
                case Dead(reason):
                    self.dead += 1
                    dead.append((msg, reason))
        if dead:
            await self._letters.begin(dead)
        return held

    async def _buried(self, msg: Msg, stored: bool) -> None:
        """Terminate a dead message whose letter is stored; the message comes again if the letter could not be."""
        await (self._done(msg, b"+TERM") if stored else self._nak(msg, _LETTER_PAUSE_S))

    async def _done(self, msg: Msg, ack: bytes) -> None:
        await self._send(msg.reply, ack)
        if self._trimming is not None:
            self._trimming.settled(msg.metadata.sequence.stream)

    async def _nak(self, msg: Msg, delay: float) -> None:
        await self._send(msg.reply, b"-NAK " + json.dumps({"delay": int(delay * 1e9)}).encode())

    async def _send(self, subject: str, data: bytes, reply: str = "") -> None:
        # A lost send is made up for: an unacked message is redelivered, a missing pull request is sent again.
        with contextlib.suppress(NatsError):
            await self._nats.publish(subject, data, reply)


def _backoff(msg: Msg) -> float:
    return min(_MAX_BACKOFF_S, 0.1 * 2 ** min(msg.metadata.num_delivered, 10))
