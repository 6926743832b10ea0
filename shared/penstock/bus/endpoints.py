"""Serve verbs as one NATS micro service.

The subscription callback only queues messages. Once the last message of one socket read is queued, the queued
messages are decoded and handed to the handler. Messages of a batch verb are merged into one call, and the results
are spread over their replies; each message of any other verb gets a task of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final

from msgspec import json
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from penstock import __version__
from penstock.bus import callers
from penstock.bus.callers import Caller
from penstock.bus.calls import Calls, Endpoint, Handler, Observer, Request
from penstock.bus.codec import MAX_PAYLOAD_BYTES
from penstock.bus.connection import identity_of
from penstock.bus.discovery import Discovery, Served
from penstock.bus.identity import inbox_of
from penstock.bus.listening import after_read, listen, unsubscribe
from penstock.bus.reply_guard import ReplyGuard
from penstock.errors import PenstockError
from penstock.ids import uuid7
from penstock.verbs import DESCRIPTIONS, Verb

log: Final = logging.getLogger("penstock.bus")

# The most items in a merged call, so that a small request never waits for a huge batch.
MERGE_ITEMS: Final = 512


class Endpoints:
    """The endpoints of all verbs of one service process, from `start` to `drain`."""

    def __init__(
        self,
        nats: Client,
        service: str,
        handlers: Mapping[Verb[Any, Any], Handler],
        *,
        root: str = "penstock",
        version: str = __version__,
        instance: str | None = None,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        observer: Observer | None = None,
        reply_prefixes: Sequence[str] = (),
        missing: Callable[[], list[str]] = list,
    ) -> None:
        secured = self._secured = identity_of(nats) is not None
        self.replies = ReplyGuard(root, reply_prefixes or (["_INBOX."] if secured else []))
        self._nats = nats
        self._queue_group = f"{root}-{service}"
        self._max_payload_bytes = max_payload_bytes
        self._calls = Calls(nats, observer)
        self._endpoints = [
            Endpoint(verb, handler, _served(verb, callers.served(verb, root, secured), self._queue_group))
            for verb, handler in handlers.items()
        ]
        self._discovery = Discovery(
            nats,
            self._queue_group,
            instance or uuid7(),
            version,
            [each.served for each in self._endpoints],
            self.replies,
            DESCRIPTIONS.get(service),
            missing,
        )
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def in_flight(self) -> int:
        """Number of handler calls that run now."""
        return len(self._tasks)

    @property
    def taking(self) -> bool:
        """Whether this instance is in the queue groups, and so gets its share of the requests."""
        return bool(self._subscriptions)

    async def start(self) -> None:
        """Start taking requests. When this returns, the server has registered every subscription."""
        await self._subscribe()
        await self._discovery.start()
        await self._nats.flush()

    async def share(self, taking: bool) -> None:
        """Join the queue groups, or leave them, so that other instances get all requests."""
        if taking and not self._subscriptions:
            await self._subscribe()
        elif not taking and self._subscriptions:
            await self._unsubscribe()

    async def _subscribe(self) -> None:
        for endpoint in self._endpoints:
            self._subscriptions.append(
                await listen(
                    self._nats,
                    endpoint.served.subject,
                    partial(self._arrived, endpoint),
                    queue=self._queue_group,
                )
            )

    async def _unsubscribe(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        await unsubscribe(self._nats, subscriptions)
        for endpoint in self._endpoints:
            self._flush(endpoint)

    async def drain(self, timeout: float = 30.0) -> None:
        """Stop taking requests, and let the running handlers finish (see `finish`)."""
        await self.stop_taking()
        await self.finish(timeout)

    async def stop_taking(self) -> None:
        """Stop taking new requests. Requests that have already arrived are still handled."""
        await asyncio.gather(self._unsubscribe(), unsubscribe(self._nats, self._discovery.stop()))

    async def finish(self, timeout: float = 30.0) -> None:
        """Wait for the running handlers; after `timeout` seconds cancel them and reply `timeout` to their callers."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _arrived(self, endpoint: Endpoint, msg: Msg) -> None:
        caller = callers.caller_in(msg.subject, endpoint.served.subject) if self._secured else None
        if self.replies.admits(msg.reply, f"{inbox_of(caller.name)}." if caller else ""):
            if not endpoint.queue:
                after_read(self._nats, partial(self._flush, endpoint))
            endpoint.queue.append((caller, msg))

    def _flush(self, endpoint: Endpoint) -> None:
        messages, endpoint.queue = endpoint.queue, []
        group: list[Request] = []
        size = 0
        for caller, msg in messages:
            items, single = endpoint.codec.decode(msg.data, self._max_payload_bytes)
            if caller is not None:
                items = [_permitted(endpoint.verb, caller, item) for item in items]
            request = Request(caller, msg, items, single)
            if group and (
                not endpoint.merge
                or size + len(request.items) > MERGE_ITEMS
                or caller != group[0].caller  # a call is made for one user, whom its events name
            ):
                self._spawn(endpoint, group)
                group, size = [], 0
            group.append(request)
            size += len(request.items)
        if group:
            self._spawn(endpoint, group)

    def _spawn(self, endpoint: Endpoint, group: list[Request]) -> None:
        task = self._loop.create_task(self._calls.serve(endpoint, group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _permitted(verb: Verb[Any, Any], caller: Caller, item: Any) -> Any:
    """Return the item, or the error for one that this caller may not ask for."""
    return item if isinstance(item, PenstockError) else callers.objection(verb, caller, item) or item


def _served(verb: Verb[Any, Any], subject: str, queue_group: str) -> Served:
    """Describe a verb for service discovery, with the JSON Schemas of its request and reply."""
    metadata = {
        "request_schema": _schema(verb.request),
        "reply_schema": _schema(verb.reply),
        "batch": "true" if verb.batch else "false",
    }
    return Served(verb.endpoint, subject, queue_group, metadata)


@cache
def _schema(message_type: Any) -> str:
    return json.encode(json.schema(message_type)).decode()
