"""Publishing without waiting for a service: JetStream keeps each message until its service has applied it."""

import asyncio
import time
from typing import Final

from nats import errors as nats_errors
from nats.aio.client import Client as Nats
from nats.js import JetStreamContext
from nats.js import errors as js_errors

from penstock import errors

TRY_S: Final = 2.0
PAUSE_S: Final = 0.2


class Publisher:
    """A publisher that repeats each message until JetStream acknowledges it. The message id makes repeats harmless."""

    def __init__(self, nats: Nats, timeout: float) -> None:
        self._js: JetStreamContext = nats.jetstream()  # pyright: ignore[reportUnknownMemberType]
        self._timeout = timeout

    async def publish(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """Publish `body`. Raise `timeout` without an ack in time, `payload_too_large` if it exceeds the NATS limit."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                await self._js.publish(subject, body, timeout=TRY_S, headers=headers)
                return
            except nats_errors.MaxPayloadError:
                text = f"a message of {len(body)} bytes is more than the NATS server takes"
                raise errors.make("payload_too_large", text, detail={"size": len(body)}) from None
            except js_errors.NoStreamResponseError:
                why = "no stream keeps this subject; has a Penstock service been started?"
            except (nats_errors.Error, TimeoutError) as error:
                why = f"no acknowledgement from JetStream ({type(error).__name__})"
            if time.monotonic() >= end:
                raise errors.make("timeout", f"{subject}: {why}", detail={"subject": subject})
            await asyncio.sleep(PAUSE_S)
