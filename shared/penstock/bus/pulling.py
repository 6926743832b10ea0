"""The pull requests of a durable consumer: one is kept open at the server, so that a published message arrives at once.

When half of the request is used, the next one is sent. Server restarts, lost requests and a deleted durable are
detected (by idle heartbeats and reconnects) and mended: nats-py's own `fetch` stays silent forever after some of these.
"""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from penstock.backoff import Backoff
from penstock.bus.listening import listen, unsubscribe

log: Final = logging.getLogger("penstock.bus")

WATCH_S: Final = 0.25
"""The most seconds between two looks at whether a pull request is lost."""
_ACKS: Final = "$JS.ACK."
_EXPIRES_S: Final = 30.0
_MISSED_HEARTBEATS: Final = 2.5
_MAX_ACK_PENDING: Final = 10_000


class Pulling:
    """Gets the messages of one durable, in batches, while this instance takes any.

    Its options are those of `Consumer`. `subject`: only messages of this subject, or None for all of the stream.
    """

    def __init__(
        self,
        durable: str,
        *,
        batch: int,
        ack_wait: float,
        heartbeat: float,
        in_order: bool,
        subject: str | None,
    ) -> None:
        self.waiting: deque[Msg] = deque()
        """The messages that have arrived, and that `next` has not returned yet."""
        self._durable = durable
        self._batch = batch
        self._ack_wait = ack_wait
        self._heartbeat = heartbeat
        self._in_order = in_order
        self._subject = subject
        self._catching_up = False
        self._asked = 0  # messages that the open pull requests may still deliver
        self._wake = asyncio.Event()
        self._lost = False
        self._taking = True
        self._stopping = False
        self._subscription: Subscription | None = None

    async def start(
        self, nats: Client, stream: str, create: Callable[[], Awaitable[None]] | None, *, taking: bool
    ) -> None:
        """Return once the durable exists; its first messages are asked for by `next`, if `taking`.

        `stream`: its full name. `create` is called if the stream is missing; without it, the stream is waited for.
        """
        self._taking, self._catching_up = False, False
        self._nats = nats
        self._js = nats.jetstream()
        self._stream = stream
        self._create = create
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._reconnects = nats.stats["reconnects"]
        self._inbox = nats.new_inbox()
        await self.share(taking)
        await self._mend()

    async def share(self, taking: bool) -> None:
        """Stop pulling, so that other instances get the messages, or pull again. Messages already here are kept."""
        if taking == self._taking:
            return
        self._taking = self._catching_up = taking
        if taking:
            self._subscription = await listen(self._nats, self._inbox, self._arrived)
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
        """Stop pulling for good, and end the wait of `next`."""
        self._stopping = True
        await self._unlisten()
        self._wake.set()

    async def next(self) -> list[Msg]:
        """Wait for messages, and return at most `batch`. Return none if the wait ends otherwise: a loss, or `stop`."""
        # Clear the event before checking any state: whatever changes from here on ends the wait below at once.
        self._wake.clear()
        if self._lost:
            await self._mend()
        if self._catching_up and self._in_order:
            await self._leftovers()
        self._catching_up = False
        await self._pull()
        if not self.waiting:
            await self._wake.wait()
            return []
        return [self.waiting.popleft() for _ in range(min(len(self.waiting), self._batch))]

    def watch(self) -> None:
        """After a reconnect or silence, count the pull request as lost: `next` then mends it.

        To be called at least every WATCH_S seconds while NATS is connected.
        """
        if not self._taking:
            return
        reconnects = self._nats.stats["reconnects"]
        silent = self._loop.time() - self._heard > self._heartbeat * _MISSED_HEARTBEATS
        if silent or reconnects != self._reconnects:
            self._reconnects = reconnects
            self._heard = self._loop.time()
            self._lost = True
            self._wake.set()

    def _arrived(self, msg: Msg) -> None:
        if msg.reply and not msg.reply.startswith(_ACKS):
            return  # not JetStream's: an outcome must not be published where a stranger points
        self._heard = self._loop.time()
        if msg.reply:
            self.waiting.append(msg)
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
            log.warning("%s/%s: %s %s", self._stream, self._durable, status, headers.get("Description", ""))
            self._lost = True
        self._wake.set()

    async def _leftovers(self) -> None:
        """Wait until every message delivered earlier is settled, or `ack_wait` has passed: the server redelivers
        the unsettled ones before it delivers new ones."""
        deadline = self._loop.time() + self._ack_wait + WATCH_S
        reached: int | None = None
        while not self._stopping and self._taking and self._loop.time() < deadline:
            with contextlib.suppress(NatsError, TimeoutError):
                info = await self._js.consumer_info(self._stream, self._durable)
                if not info.num_ack_pending or info.delivered is None or info.ack_floor is None:
                    return
                reached = info.delivered.stream_seq if reached is None else reached
                if info.ack_floor.stream_seq >= reached:
                    return
            await asyncio.sleep(min(WATCH_S, self._ack_wait / 4))

    async def _pull(self) -> None:
        wanted = self._batch - max(self._asked, 0) - len(self.waiting)
        if wanted < self._batch // 2 or self._stopping or not self._taking:
            return
        request = {
            "batch": wanted,
            "expires": int(_EXPIRES_S * 1e9),
            "idle_heartbeat": int(self._heartbeat * 1e9),
        }
        self._asked = max(self._asked, 0) + wanted
        with contextlib.suppress(NatsError):  # a missing pull request is sent again
            await self._nats.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}",
                json.dumps(request).encode(),
                self._inbox,
            )

    async def _mend(self) -> None:
        """Make sure that the durable exists, retrying with backoff, and reset the count of requested messages."""
        backoff = Backoff(WATCH_S, 5.0)
        while not self._stopping:
            self._lost = False  # a loss noticed from here on leads to another `_mend`
            try:
                await self._ensure()
                break
            except (NatsError, TimeoutError) as error:
                log.warning("%s/%s: not there yet: %s", self._stream, self._durable, error)
            await asyncio.sleep(backoff.next_s())
        self._heard = self._loop.time()
        self._asked = 0

    async def _ensure(self) -> None:
        config = ConsumerConfig(
            name=self._durable,
            durable_name=self._durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait,
            max_ack_pending=_MAX_ACK_PENDING,
            filter_subject=self._subject,
        )
        try:
            await self._js.add_consumer(self._stream, config)
        except NotFoundError:
            if self._create is None:
                raise
            await self._create()
            await self._js.add_consumer(self._stream, config)
