"""Publishing without waiting for a service: JetStream keeps each message until its service has applied it.

Messages that are published at the same time go to their stream together, as an atomic batch (NATS ADR-50): nats-server
then syncs its disk once for all of them.
"""

import asyncio
import secrets
import time
from collections import deque
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw
from nats import errors as nats_errors
from nats.aio.client import Client as Nats
from nats.js import JetStreamContext
from nats.js import errors as js_errors

from penstock import errors
from penstock.bus.payloads import raw_of
from penstock.codecs._coding import Coding

TRY_S: Final = 2.0
PAUSE_S: Final = 0.2
MAX_MESSAGES: Final = 500
MAX_BYTES: Final = 1024 * 1024
"""The most of one batch: nats-server takes 1,000 messages, and others wait until it has stored them."""
HEADERS: Final = 512
"""More bytes than the names of all headers take, and the values of those that make a batch."""
NO_STREAM: Final = "no stream keeps this subject; has a Penstock service been started?"


class _Message(NamedTuple):
    subject: str
    body: bytes
    headers: dict[str, str]
    outcome: "asyncio.Future[str | None]"
    """None once the message is stored, else why it may not be."""


class Publisher:
    """A publisher that repeats each message until JetStream acknowledges it. The message id makes repeats harmless."""

    def __init__(self, nats: Nats, timeout: float, coding: Coding | None = None) -> None:
        self._nats = nats
        self._timeout = timeout
        self._coding = coding
        self._lines: dict[str, _Line] = {}

    async def payload(self, value: Any) -> Raw:
        """Return a value as a payload, coded if there is a codec."""
        return raw_of(value) if self._coding is None else await self._coding.encode_payload(raw_of(value))

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """Publish `body`. Raise `timeout` without an ack in time, `payload_too_large` if it exceeds the NATS limit."""
        if len(body) + HEADERS + sum(map(len, headers.values())) > self._nats.max_payload:
            text = f"a message of {len(body)} bytes is more than the NATS server takes"
            raise errors.make("payload_too_large", text, detail={"size": len(body)})
        stream = ".".join(subject.split(".")[:2])  # penstock.signal: each stream keeps one such prefix
        line = self._lines.setdefault(stream, _Line(self._nats))
        end = time.monotonic() + self._timeout
        while (why := await line.send(subject, body, headers)) is not None:
            if time.monotonic() >= end:
                raise errors.make("timeout", f"{subject}: {why}", detail={"subject": subject})
            await asyncio.sleep(PAUSE_S)


class _Line:
    """The messages to one stream. One batch is under way at a time; what comes meanwhile is the next one."""

    def __init__(self, nats: Nats) -> None:
        self._nats = nats
        self._js: JetStreamContext = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
        self._queue: deque[_Message] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def send(self, subject: str, body: bytes, headers: dict[str, str]) -> str | None:
        """Publish a message once. Return None once it is stored, or why it may not be."""
        loop = asyncio.get_running_loop()
        message = _Message(subject, body, headers, loop.create_future())
        self._queue.append(message)
        if self._sending is None:
            self._sending = loop.create_task(self._send_all())
        return await message.outcome

    async def _send_all(self) -> None:
        try:
            while self._queue:
                await self._send_some(self._next_batch())
        finally:
            self._sending = None

    def _next_batch(self) -> list[_Message]:
        batch, size = [self._queue.popleft()], 0
        while self._queue and len(batch) < MAX_MESSAGES:
            size += len(self._queue[0].body)
            if size > MAX_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _send_some(self, batch: list[_Message]) -> None:
        whys: list[str | None]
        try:
            if len(batch) == 1 or not await self._send_together(batch):
                whys = await asyncio.gather(*map(self._send_one, batch))
            else:
                whys = [None] * len(batch)
        except Exception as error:  # whatever it was, the messages may not be stored
            whys = [_why(error)] * len(batch)
        for message, why in zip(batch, whys, strict=True):
            if not message.outcome.done():  # it is, if its caller was cancelled
                message.outcome.set_result(why)

    async def _send_together(self, batch: list[_Message]) -> bool:
        """Publish an atomic batch. Return False if the stream refuses it: it takes none, or knows a message already."""
        batch_id = secrets.token_hex(8)
        for number, message in enumerate(batch, 1):
            headers = {
                **message.headers,
                "Nats-Batch-Id": batch_id,
                "Nats-Batch-Sequence": str(number),
            }
            if number < len(batch):
                await self._nats.publish(message.subject, message.body, headers=headers)
            else:
                headers["Nats-Batch-Commit"] = "1"
                ack = await self._nats.request(message.subject, message.body, TRY_S, headers=headers)
                return "error" not in _decode(ack.data)
        return True

    async def _send_one(self, message: _Message) -> str | None:
        try:
            await self._js.publish(message.subject, message.body, TRY_S, headers=message.headers)
        except (nats_errors.Error, TimeoutError) as error:
            return _why(error)
        return None


_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _why(error: Exception) -> str:
    if isinstance(error, js_errors.NoStreamResponseError | nats_errors.NoRespondersError):
        return NO_STREAM
    return f"no acknowledgement from JetStream ({type(error).__name__})"
