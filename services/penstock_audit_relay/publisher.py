"""The NATS side of the relay: writes a batch and receives the stream's answer."""

import asyncio
from typing import Any, Final

import msgspec
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from penstock.bus.listening import listen
from penstock_audit_relay.batch import Batch

ACK_TIMEOUT_S: Final = 10.0
WATCH_S: Final = 0.25
_WRONG_LAST_SEQUENCE: Final = 10071


class PublishError(Exception):
    """The stream refused the batch or did not answer. Only the end of the stream tells whether the batch is stored."""


class NotStored(PublishError):
    """The stream is there, but refused the batch or did not answer."""


class Superseded(PublishError):
    """Another publisher was faster: the stream is not at the sequence that the batch expects."""


class NoStream(PublishError):
    """The subject has no responder: JetStream is away, or the stream does not exist."""


class _Ack(Struct):
    seq: int = 0
    error: dict[str, Any] | None = None


_decode: Final = msgspec.json.Decoder(_Ack).decode


class Publisher:
    """Publishes one batch at a time."""

    def __init__(self, nats: Client) -> None:
        self._nats = nats
        self.inbox = nats.new_inbox()
        self._waiting: tuple[Batch, asyncio.Future[None]] | None = None
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await listen(self._nats, f"{self.inbox}.*", self._heard)

    async def stop(self) -> None:
        if self._subscription is not None and not self._nats.is_closed:
            await self._subscription.unsubscribe()

    async def send(self, batch: Batch) -> "asyncio.Future[None]":
        """Write the batch. Return a future that is done when the stream has stored the batch, or raises PublishError.

        Only one batch may be in flight. A second batch expects the sequence that the first one leads to; a foreign
        batch of the same length would lead there too, and the second batch would break the hash chain.
        """
        if not self._nats.is_connected:
            raise PublishError("NATS is away")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting = (batch, done)
        self._watch(batch.token, loop.time() + ACK_TIMEOUT_S, self._nats.stats["reconnects"])
        # As `Client.publish` writes one message, but for a whole batch: nats-py has no public method for that.
        await self._nats._send_command(batch.wire)  # pyright: ignore[reportPrivateUsage]
        await self._nats._flush_pending()  # pyright: ignore[reportPrivateUsage]
        return done

    def _watch(self, token: str, deadline: float, reconnects: int) -> None:
        """Poll the batch in flight: fail it at the deadline, or once its connection, and so its answer, is lost."""
        if self._waiting is None or self._waiting[0].token != token:
            return
        loop = asyncio.get_running_loop()
        if not self._nats.is_connected or self._nats.stats["reconnects"] != reconnects:
            self._settle(token, PublishError("the connection was lost before the stream answered"))
        elif loop.time() > deadline:
            self._settle(token, NotStored("the stream did not answer"))
        else:
            loop.call_later(WATCH_S, self._watch, token, deadline, reconnects)

    def _heard(self, message: Msg) -> None:
        token = message.subject.rpartition(".")[2]
        if not message.data and message.headers and message.headers.get("Status") == "503":
            self._settle(token, NoStream("nobody listens: JetStream is away, or the stream is missing"))
            return
        try:
            ack = _decode(message.data)
        except msgspec.MsgspecError:
            self._settle(token, PublishError("the stream's answer cannot be read"))
            return
        if ack.error is not None:
            what = f"{ack.error.get('description', 'refused')} ({ack.error.get('err_code')})"
            kind = Superseded if ack.error.get("err_code") == _WRONG_LAST_SEQUENCE else NotStored
            self._settle(token, kind(what))
        elif self._waiting and ack.seq != self._waiting[0].last_seq:
            self._settle(token, PublishError(f"stored up to {ack.seq}, expected {self._waiting[0].last_seq}"))
        else:
            self._settle(token, None)

    def _settle(self, token: str, error: PublishError | None) -> None:
        if self._waiting is None or self._waiting[0].token != token:
            return  # a late answer to an earlier batch
        done = self._waiting[1]
        self._waiting = None
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
            done.exception()  # marks the exception as retrieved: asyncio need not log it if nobody awaits the future
