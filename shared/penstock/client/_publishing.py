"""Publishing without waiting for a service: JetStream keeps each message until its service has applied it."""

import asyncio
import time
from typing import Any, Final

from msgspec import Raw
from nats.aio.client import Client as Nats

from penstock import errors
from penstock.bus.line import HEADERS, Line, Message
from penstock.bus.payloads import raw_of
from penstock.codecs._coding import Coding

PAUSE_S: Final = 0.2


class Publisher:
    """A publisher that repeats each message until JetStream acknowledges it. The message id makes repeats harmless."""

    def __init__(self, nats: Nats, timeout: float, coding: Coding | None = None) -> None:
        self._nats = nats
        self._timeout = timeout
        self._coding = coding
        self._lines: dict[str, Line] = {}

    async def payload(self, value: Any) -> Raw:
        """Return a value as a payload, coded if there is a codec."""
        return raw_of(value) if self._coding is None else await self._coding.encode_payload(raw_of(value))

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """Publish `body`. Raise `timeout` without an ack in time, `payload_too_large` if it exceeds the NATS limit."""
        if len(body) + HEADERS + sum(map(len, headers.values())) > self._nats.max_payload:
            text = f"a message of {len(body)} bytes is more than the NATS server takes"
            raise errors.make("payload_too_large", text, detail={"size": len(body)})
        stream = ".".join(subject.split(".")[:2])  # penstock.signal: each stream keeps one such prefix
        line = self._lines.setdefault(stream, Line(self._nats))
        end = time.monotonic() + self._timeout
        while (why := await line.send(Message(subject, body, headers))) is not None:
            if time.monotonic() >= end:
                raise errors.make("timeout", f"{subject}: {why}", detail={"subject": subject})
            await asyncio.sleep(PAUSE_S)
