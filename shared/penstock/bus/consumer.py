"""A durable pull consumer: it handles messages in batches; each is acked, retried or sent to the dead letters.

The messages come from `Pulling` (bus/pulling.py). Those that this process holds come to no other instance meanwhile.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from penstock.bus import streams
from penstock.bus.dead_letters import DeadLetters
from penstock.bus.outcomes import Ack, Dead, Outcome, Retry
from penstock.bus.published import place_of
from penstock.bus.pulling import WATCH_S, Pulling
from penstock.bus.sending import send
from penstock.bus.trimming import Trimming
from penstock.errors import PenstockError

log: Final = logging.getLogger("penstock.bus")


MessageHandler = Callable[[list[Msg]], Awaitable[Sequence[Outcome]]]

# The pause before an ordered consumer handles its retried messages again.
_HOLD_S: Final = 0.25
_STOP_S: Final = 10.0
# The pause before a message comes again whose dead letter could not be stored.
_LETTER_PAUSE_S: Final = 5.0
_MAX_BACKOFF_S: Final = 60.0
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

    `at_once`: the most batches that are handled at the same time. They begin in stream order; where that matters, the
    handler sees to it that a batch does not overtake another one.
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
        at_once: int = 1,
        subject: str | None = None,
    ) -> None:
        self._subject = subject
        self.stream = stream
        self.durable = durable
        self.acked = self.retried = self.dead = 0  # for the metrics
        self._handler = handler
        self._ack_wait = ack_wait
        self.in_order = in_order
        self._pulling = Pulling(
            durable, batch=batch, ack_wait=ack_wait, heartbeat=heartbeat, in_order=in_order, subject=subject
        )
        self._in_hand: dict[asyncio.Task[None], list[Msg]] = {}
        self._at_once = at_once
        self._stopping = False
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
        self._nats = nats
        js = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
        self._name = self.stream if self._subject else streams.stream_name(root, self.stream)
        self._letters = DeadLetters(nats, root, self._name, self._buried)
        self._loop = asyncio.get_running_loop()
        create = None if self._subject else partial(streams.ensure, js, root, replicas, bounds)
        await self._pulling.start(nats, self._name, create, taking=taking)
        self._running = self._loop.create_task(self._run())
        self._watching = self._loop.create_task(self._watch())
        if not self._subject:
            self._trimming = Trimming(js, self._name, self.durable)

    async def share(self, taking: bool) -> None:
        """Stop pulling, so that other instances get the messages, or pull again. Messages already here are handled."""
        await self._pulling.share(taking)

    async def stop(self) -> None:
        """Stop pulling, finish the running batch, and return (nak) the buffered messages to the stream."""
        self._stopping = True
        await self._pulling.stop()
        if self._watching is not None:
            self._watching.cancel()
        if self._running is not None:  # None if `stop` comes before `start` has finished
            _, late = await asyncio.wait({self._running, *self._in_hand}, timeout=_STOP_S)
            for task in late:
                task.cancel()
            await self._letters.finish(_STOP_S)
        while self._pulling.waiting:
            await self._send(self._pulling.waiting.popleft().reply, b"-NAK")
        if self._trimming is not None:
            await self._trimming.stop()

    async def _run(self) -> None:
        while not self._stopping:
            await self._survive(self._step())

    async def _survive(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work, and go on after a bug in it: unacked messages are redelivered after `ack_wait`."""
        try:
            await work
        except Exception:
            log.exception("%s/%s: going on after a bug", self._name, self.durable)
            await asyncio.sleep(WATCH_S)

    async def _step(self) -> None:
        batch = await self._pulling.next()
        if batch:
            handling = self._loop.create_task(self._survive(self._handle(batch)))
            self._in_hand[handling] = batch
            handling.add_done_callback(self._in_hand.pop)
        while len(self._in_hand) >= self._at_once:
            await asyncio.wait(self._in_hand, return_when=asyncio.FIRST_COMPLETED)

    async def _handle(self, batch: list[Msg]) -> None:
        while batch:
            outcomes = await self._outcomes(batch)
            await asyncio.sleep(0)  # what the handler has published leaves before the acknowledgements
            batch[:] = await self._settle(batch, outcomes)  # in place: `_watch` reads it
            if batch:
                await asyncio.sleep(_HOLD_S)

    async def _watch(self) -> None:
        """Extend the ack deadlines of the messages that this process holds, and watch the pull request."""
        kept = self._loop.time()
        while True:
            await asyncio.sleep(min(WATCH_S, self._ack_wait / 4))
            if not self._nats.is_connected:
                continue
            if self._loop.time() - kept >= self._ack_wait / 4:
                kept = self._loop.time()
                held = [msg for batch in self._in_hand.values() for msg in batch]
                for msg in [*held, *self._letters.messages, *self._pulling.waiting]:
                    await self._send(msg.reply, b"+WPI")
            self._pulling.watch()

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
            self._trimming.settled(place_of(msg).seq)

    async def _nak(self, msg: Msg, delay: float) -> None:
        await self._send(msg.reply, b"-NAK " + json.dumps({"delay": int(delay * 1e9)}).encode())

    async def _send(self, subject: str, data: bytes) -> None:
        # A lost send is made up for: an unacked message is redelivered.
        with contextlib.suppress(NatsError):
            await send(self._nats, subject, data)


def _backoff(msg: Msg) -> float:
    return min(_MAX_BACKOFF_S, 0.1 * 2 ** min(msg.metadata.num_delivered, 10))
