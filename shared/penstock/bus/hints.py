"""Hints: best-effort wake-ups between processes, over core NATS.

A hint may be lost, so correctness must never depend on one. All payloads sent to a topic within one
event-loop tick leave as one message, a msgpack list, with a signature (`penstock.bus.seal`): others are dropped.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec import MsgspecError, msgpack
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from penstock.bus.listening import listen
from penstock.bus.seal import HEADER, Seal
from penstock.throttle import Throttle

log: Final = logging.getLogger("penstock.bus")

_encode: Final = msgpack.Encoder().encode
_decode: Final = msgpack.Decoder(list[Any]).decode


class Hints:
    """Sender and receiver of hints on `<root>.hint.<topic>`. `refused`: messages that were dropped, by reason."""

    def __init__(self, nats: Client, root: str, seal: Seal) -> None:
        self.refused: Counter[str] = Counter()
        self._nats = nats
        self._seal = seal
        self._complaints = Throttle()
        self._prefix = f"{root}.hint."
        self._pending: dict[str, list[Any]] = {}
        self._sending: asyncio.Task[None] | None = None

    def send(self, topic: str, payload: Any) -> None:
        """Send a hint to all listeners of this topic, also those in this process. Never raises, never waits."""
        payloads = self._pending.get(topic)
        if payloads is not None:
            payloads.append(payload)
            return
        self._pending[topic] = [payload]
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._flush())

    async def listen(self, topic: str, callback: Callable[[Any], None]) -> Subscription:
        """Call `callback` with each payload of this topic. Return the subscription; unsubscribe it to stop."""
        return await listen(self._nats, self._prefix + topic, partial(self._heard, callback))

    async def _flush(self) -> None:
        """Publish the pending hints. The task starts one tick after `send`, so it finds all hints of that tick."""
        pending, self._pending = self._pending, {}
        self._sending = None
        if not self._nats.is_connected:
            return  # drop them: they would be stale after a reconnect, and the sweeps make up for lost hints
        for topic, payloads in pending.items():
            try:
                subject, body = self._prefix + topic, _encode(payloads)
                headers = {HEADER: self._seal.sign(subject, body)}
                await self._nats.publish(subject, body, headers=headers)
            except (NatsError, MsgspecError, TypeError) as error:
                log.warning("a hint on %s could not be sent: %s", topic, error)

    def _heard(self, callback: Callable[[Any], None], msg: Msg) -> None:
        refusal = self._seal.refusal(msg.subject, msg.data, (msg.headers or {}).get(HEADER))
        if refusal is not None:
            self._refuse(msg.subject, refusal)
            return
        try:
            payloads = _decode(msg.data)
        except MsgspecError:
            log.warning("what came on %s is no hint", msg.subject)
            return
        for payload in payloads:
            try:
                callback(payload)
            except Exception:
                log.exception("a listener to %s failed", msg.subject)

    def _refuse(self, subject: str, why: str) -> None:
        self.refused[why] += 1
        if self._complaints.passes():
            # Services of release 0.1.0 do not sign: while they are replaced, that is no news.
            level = logging.INFO if why == "unsigned" else logging.WARNING
            log.log(level, "what came on %s is dropped as %s: no service of now has sent it", subject, why)
