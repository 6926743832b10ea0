"""Serve verbs as one NATS micro service.

The subscription callback only queues messages. Once the last message of one socket read is queued, the queued
messages are decoded and handed to the handler. Messages of a batch verb are merged into one call, and the results
are spread over their replies; each message of any other verb gets a task of its own.
"""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, Generic

from msgspec import json
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from penstock import __version__, errors
from penstock.bus import callers
from penstock.bus.callers import Caller
from penstock.bus.codec import MAX_PAYLOAD_BYTES, codec_of
from penstock.bus.connection import identity_of
from penstock.bus.discovery import Discovery, Served
from penstock.bus.identity import inbox_of
from penstock.bus.reply_guard import ReplyGuard
from penstock.bus.request_id import handled
from penstock.errors import PenstockError
from penstock.ids import uuid7
from penstock.verbs import DESCRIPTIONS, Req, Verb
from penstock.who import asking

log: Final = logging.getLogger("penstock.bus")

# The most items in a merged call, so that a small request never waits for a huge batch.
MERGE_ITEMS: Final = 512
_PENDING_MESSAGES: Final = 1_000_000
_PENDING_BYTES: Final = 1024 * 1024 * 1024
_UNSUBSCRIBE_S: Final = 5.0


@dataclass(slots=True)
class Call(Generic[Req]):
    """One call of a handler. It holds valid requests only: `Endpoints` answers invalid ones itself.

    A call made of one message has that message's `reply_to` and `single`; verbs without batches and `parked`
    handlers get only such calls. A call merged from several messages has `""` and False.
    """

    items: list[Req]
    reply_to: str
    single: bool


Handler = Callable[[Call[Any]], Awaitable[Sequence[Any] | None]]

# (verb, number of requests, codes of the errors among their replies, seconds from the start of the call to the reply)
Observer = Callable[[Verb[Any, Any], int, Sequence[str], float], None]


class Parked:
    """Wrapper of a handler whose calls wait for an event: each message is handled in a call of its own."""

    __slots__ = ("_handler",)

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def __call__(self, call: Call[Any]) -> Awaitable[Sequence[Any] | None]:
        return self._handler(call)


def parked(handler: Handler) -> Handler:
    """Mark a handler as one that waits for an event (`execution.wait`): its messages are never merged."""
    return Parked(handler)


class _Request:
    """One decoded message: its caller, reply subject, headers and items; an invalid item is a PenstockError."""

    __slots__ = ("caller", "headers", "items", "reply", "single")

    def __init__(self, caller: Caller | None, msg: Msg, items: list[Any], single: bool) -> None:
        self.caller = caller
        self.reply = msg.reply
        self.headers = msg.headers
        self.items = items
        self.single = single


class _Endpoint:
    """One verb with its handler and the queue of messages that arrived together."""

    __slots__ = ("codec", "handler", "merge", "queue", "served", "subscription", "verb")

    def __init__(self, verb: Verb[Any, Any], handler: Handler, served: Served) -> None:
        self.verb = verb
        self.handler = handler
        self.merge = verb.batch and not isinstance(handler, Parked)
        self.codec = codec_of(verb)
        self.served = served
        self.queue: list[tuple[Caller | None, Msg]] = []
        self.subscription: Subscription | None = None


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
        self._observer = observer
        self._endpoints = [
            _Endpoint(verb, handler, _served(verb, callers.served(verb, root, secured), self._queue_group))
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
            subscription = await self._nats.subscribe(
                endpoint.served.subject,
                queue=self._queue_group,
                cb=partial(self._arrived, endpoint),
                pending_msgs_limit=_PENDING_MESSAGES,
                pending_bytes_limit=_PENDING_BYTES,
            )
            endpoint.subscription = subscription
            self._subscriptions.append(subscription)

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

    async def _arrived(self, endpoint: _Endpoint, msg: Msg) -> None:
        caller = self._caller(endpoint, msg)
        if self.replies.admits(msg.reply, f"{inbox_of(caller.name)}." if caller else ""):
            endpoint.queue.append((caller, msg))
        if endpoint.subscription is None or not endpoint.subscription.pending_msgs:
            self._flush(endpoint)  # this was the last message of one socket read

    def _caller(self, endpoint: _Endpoint, msg: Msg) -> Caller | None:
        return callers.caller_in(msg.subject, endpoint.served.subject) if self._secured else None

    def _flush(self, endpoint: _Endpoint) -> None:
        messages, endpoint.queue = endpoint.queue, []
        group: list[_Request] = []
        size = 0
        for caller, msg in messages:
            items, single = endpoint.codec.decode(msg.data, self._max_payload_bytes)
            if caller is not None:
                items = [_permitted(endpoint.verb, caller, item) for item in items]
            request = _Request(caller, msg, items, single)
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

    def _spawn(self, endpoint: _Endpoint, group: list[_Request]) -> None:
        task = self._loop.create_task(self._serve(endpoint, group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, endpoint: _Endpoint, group: list[_Request]) -> None:
        """Run the handler once for a group of messages, and reply to each message."""
        started = time.perf_counter()
        handled.set([(request.reply, request.headers) for request in group])
        valid = [item for request in group for item in request.items if not isinstance(item, PenstockError)]
        results: Sequence[Any] | None = ()
        canceled = False
        if valid:
            alone = group[0] if len(group) == 1 else None
            call = Call(valid, alone.reply if alone else "", alone.single if alone else False)
            caller = group[0].caller
            asking.set(caller.name if caller else None)  # seen by this task only, and by those that it starts
            try:
                results = await self._results(endpoint, call)
            except asyncio.CancelledError:
                canceled = True
                stopping = errors.make(
                    "timeout", "the service is stopping; the change may or may not have happened"
                )
                results = [stopping] * len(valid)
        if results is None:
            self._count(endpoint, len(group), len(valid), (), started)
            return
        failed = await self._answer(endpoint, group, results)
        self._count(endpoint, len(group), sum(len(request.items) for request in group), failed, started)
        if canceled:
            raise asyncio.CancelledError

    async def _results(self, endpoint: _Endpoint, call: Call[Any]) -> Sequence[Any] | None:
        """Call the handler. Return one result or error per item, also if it fails; None if it replies by itself."""
        try:
            results = await endpoint.handler(call)
        except PenstockError as error:
            return [error] * len(call.items)
        except Exception:
            log.exception("%s: the handler failed", endpoint.verb.name)
        else:
            if results is None:
                return None
            if len(results) == len(call.items):
                return [_of_item(endpoint.verb, result) for result in results]
            log.error(
                "%s: the handler gave %d results for %d items",
                endpoint.verb.name,
                len(results),
                len(call.items),
            )
        return [errors.make("internal")] * len(call.items)

    async def _answer(self, endpoint: _Endpoint, group: list[_Request], results: Sequence[Any]) -> list[str]:
        """Reply to each message with its part of the results. Return the codes of the items that are errors."""
        failed: list[str] = []
        following = iter(results)
        for request in group:
            answers = [item if isinstance(item, PenstockError) else next(following) for item in request.items]
            wrong = [answer for answer in answers if isinstance(answer, PenstockError)]
            if wrong:
                failed += [error.code for error in wrong]
                endpoint.served.failed(wrong[-1].code)
            if not request.reply:  # published without a reply subject: nobody waits for an answer
                continue
            try:
                body, headers = endpoint.codec.encode(answers, request.single, self._nats.max_payload)
            except Exception:
                log.exception("%s: the reply cannot be encoded", endpoint.verb.name)
                body, headers = endpoint.codec.encode(
                    [errors.make("internal")] * len(answers), request.single
                )
            try:
                await self._nats.publish(request.reply, body, headers=headers)
            except NatsError as error:
                log.warning("%s: a reply could not be sent: %s", endpoint.verb.name, error)
        return failed

    def _count(
        self, endpoint: _Endpoint, messages: int, items: int, failed: Sequence[str], started: float
    ) -> None:
        seconds = time.perf_counter() - started
        endpoint.served.answered(messages, seconds)
        if self._observer is not None:
            self._observer(endpoint.verb, items, failed, seconds)


def _permitted(verb: Verb[Any, Any], caller: Caller, item: Any) -> Any:
    """Return the item, or the error for one that this caller may not ask for."""
    return item if isinstance(item, PenstockError) else callers.objection(verb, caller, item) or item


def _of_item(verb: Verb[Any, Any], result: Any) -> Any:
    """Return the result, or `internal` for an exception that is no PenstockError: a bug that the handler collected."""
    if not isinstance(result, BaseException) or isinstance(result, PenstockError):
        return result
    log.error("%s: the handler failed on an item", verb.name, exc_info=result)
    return errors.make("internal")


async def unsubscribe(nats: Client, subscriptions: Sequence[Subscription]) -> None:
    """End subscriptions after their callbacks have received everything that the server had already sent.

    As `Subscription.drain` of nats-py for each, but with one round trip for all of them.
    """
    try:
        async with asyncio.timeout(_UNSUBSCRIBE_S):
            if nats.is_connected:
                for subscription in subscriptions:
                    await nats._send_unsubscribe(subscription._id)  # pyright: ignore[reportPrivateUsage]
                await nats.flush()
                for subscription in subscriptions:
                    await subscription._pending_queue.join()  # pyright: ignore[reportPrivateUsage]
    except (NatsError, TimeoutError) as error:
        log.debug("unsubscribing: %s", error)
    for subscription in subscriptions:
        with contextlib.suppress(NatsError):
            await subscription.unsubscribe()


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
