"""Audit events as they happen, over core NATS. Past events are not replayed: `penstock audit` reads the stream."""

import asyncio
import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from penstock import errors
from penstock.bus.connection import Connection
from penstock.bus.listening import listen


class AuditEvent(msgspec.Struct, kw_only=True, rename={"from_": "from"}):
    """One event of the audit trail (contract §3, audit-relay)."""

    event_id: str
    seq: int
    namespace: str
    entity: str
    id: str
    event: str
    at: int
    schema_version: int = 1
    actor: str | None = None
    from_: str | None = None
    to: str | None = None
    reason: str | None = None
    data: Any = None
    prev_hash: str | None = None
    hash: str | None = None


log: Final = logging.getLogger("penstock.client")

_decode: Final = msgspec.json.Decoder(AuditEvent).decode


class EventStream:
    """Audit events since the stream was opened: by `async with`, by `open()`, or by the first `next()`."""

    def __init__(self, nats: Nats, subject: str) -> None:
        self.subject = subject
        self._nats = nats
        self._queue: asyncio.Queue[AuditEvent | errors.PenstockError] = asyncio.Queue()
        self._subscription: Subscription | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribe to the events. No event published after this returns is missed."""
        if self._subscription is None:
            self._subscription = await listen(self._nats, self.subject, self._on_event)
            await self._nats.flush()
            if isinstance(self._nats, Connection):
                self._watching = asyncio.create_task(self._watch(self._nats))

    async def close(self) -> None:
        """Unsubscribe from the events."""
        subscription, self._subscription = self._subscription, None
        if self._watching is not None:
            self._watching.cancel()
        if subscription is not None and not self._nats.is_closed:
            await subscription.unsubscribe()

    async def next(self, timeout: float | None = None) -> AuditEvent:
        """Return the next event. Raise `TimeoutError`, or the contract's `timeout` once the connection is closed."""
        await self.open()
        event = await asyncio.wait_for(self._queue.get(), timeout)
        if isinstance(event, errors.PenstockError):
            self._queue.put_nowait(event)  # the next call raises it again
            raise event
        return event

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[AuditEvent]:
        while True:
            yield await self.next()

    def _on_event(self, msg: Msg) -> None:
        try:
            self._queue.put_nowait(_decode(msg.data))
        except msgspec.DecodeError:
            log.warning("a message on %s is no audit event", msg.subject)

    async def _watch(self, nats: Connection) -> None:
        await nats.closed.wait()
        self._queue.put_nowait(errors.make("timeout", nats.why_closed))
