"""Messages on their way to one JetStream stream: those that are there at the same time go together.

Many are an atomic batch (NATS ADR-50): nats-server then syncs its disk once for all of them. A few are sent one by one,
without a wait between them: nats-server makes a store of its own for each batch, which takes longer than their syncs.

A line rests after each batch for as long as that took. Who has thousands to publish takes at most half of the stream's
time, and what others publish does not wait for batch after batch, there and wherever the messages go from there.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client as Nats
from nats.js import JetStreamContext
from nats.js import errors as js_errors

TRY_S: Final = 2.0
MAX_MESSAGES: Final = 500
MIN_BATCH: Final = 16
"""An atomic batch takes 2.3 ms, however small it is; one message 0.45 ms, 16 one by one 2.9 ms (each with a sync)."""
MAX_BYTES: Final = 1024 * 1024
"""The most of one batch: nats-server takes 1,000 messages, and others wait until it has stored them."""
HEADERS: Final = 512
"""More bytes than the names of all headers take, and the values of those that make a batch."""
NO_STREAM: Final = "no stream keeps this subject; has a Penstock service been started?"

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Message(NamedTuple):
    """A message to publish. Its `Nats-Msg-Id` header makes it harmless to publish it again."""

    subject: str
    body: bytes
    headers: dict[str, str]


_Queued = tuple[Message, "asyncio.Future[str | None]"]


class Line:
    """The messages to one stream. One batch is under way at a time; what comes meanwhile is the next one."""

    def __init__(self, nats: Nats) -> None:
        self._nats = nats
        self._js: JetStreamContext = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
        self._queue: deque[_Queued] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> str | None:
        """Publish a message once. Return None once it is stored, or why it may not be."""
        return await self._enter(message)

    async def send_all(self, messages: Sequence[Message]) -> list[str | None]:
        """Publish messages once. When all are through, return for each what `send` does."""
        return await asyncio.gather(*map(self._enter, messages))

    def _enter(self, message: Message) -> "asyncio.Future[str | None]":
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[str | None] = loop.create_future()
        self._queue.append((message, outcome))
        if self._sending is None:
            self._sending = loop.create_task(self._send_queue())
        return outcome

    async def _send_queue(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                began = loop.time()
                if await self._send_some(self._next_batch()):
                    await asyncio.sleep(loop.time() - began)
        finally:
            self._sending = None

    def _next_batch(self) -> list[_Queued]:
        batch, size = [self._queue.popleft()], 0
        while self._queue and len(batch) < MAX_MESSAGES:
            size += len(self._queue[0][0].body)
            if size > MAX_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _send_some(self, batch: list[_Queued]) -> bool:
        """Publish these. Return True if they were stored as an atomic batch."""
        messages = [message for message, _ in batch]
        whys: list[str | None] = [None] * len(messages)
        together = False
        try:
            together = len(messages) >= MIN_BATCH and await self._send_together(messages)
            if not together:
                whys = await asyncio.gather(*map(self._send_one, messages))
        except Exception as error:  # whatever it was, the messages may not be stored
            whys = [_why(error)] * len(messages)
        for (_, outcome), why in zip(batch, whys, strict=True):
            if not outcome.done():  # it is, if its caller was cancelled
                outcome.set_result(why)
        return together

    async def _send_together(self, messages: list[Message]) -> bool:
        """Publish an atomic batch. Return False if the stream refuses it: it takes none, or knows a message already."""
        batch_id = secrets.token_hex(8)
        for number, (subject, body, given) in enumerate(messages, 1):
            headers = {**given, "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
            if number < len(messages):
                await self._nats.publish(subject, body, headers=headers)
            else:
                headers["Nats-Batch-Commit"] = "1"
                ack = await self._nats.request(subject, body, TRY_S, headers=headers)
                return "error" not in _decode(ack.data)
        return True

    async def _send_one(self, message: Message) -> str | None:
        try:
            await self._js.publish(message.subject, message.body, TRY_S, headers=message.headers)
        except (nats_errors.Error, TimeoutError) as error:
            return _why(error)
        return None


def _why(error: Exception) -> str:
    if isinstance(error, js_errors.NoStreamResponseError | nats_errors.NoRespondersError):
        return NO_STREAM
    return f"no acknowledgement from JetStream ({type(error).__name__})"
