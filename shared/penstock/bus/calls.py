"""Calls of handlers: what a handler gets, and what becomes of its results."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from penstock import errors
from penstock.bus.callers import Caller
from penstock.bus.codec import codec_of
from penstock.bus.discovery import Served
from penstock.bus.request_id import handled
from penstock.bus.sending import send
from penstock.errors import PenstockError
from penstock.verbs import Req, Verb
from penstock.who import asking

log: Final = logging.getLogger("penstock.bus")


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


class Request:
    """One decoded message: its caller, reply subject, headers and items; an invalid item is a PenstockError."""

    __slots__ = ("caller", "headers", "items", "reply", "single")

    def __init__(self, caller: Caller | None, msg: Msg, items: list[Any], single: bool) -> None:
        self.caller = caller
        self.reply = msg.reply
        self.headers = msg.headers
        self.items = items
        self.single = single


class Endpoint:
    """One verb with its handler and the queue of messages that arrived together."""

    __slots__ = ("codec", "handler", "merge", "queue", "served", "verb")

    def __init__(self, verb: Verb[Any, Any], handler: Handler, served: Served) -> None:
        self.verb = verb
        self.handler = handler
        self.merge = verb.batch and not isinstance(handler, Parked)
        self.codec = codec_of(verb)
        self.served = served
        self.queue: list[tuple[Caller | None, Msg]] = []


class Calls:
    """Calls handlers with what came in, and replies to each message."""

    def __init__(self, nats: Client, observer: Observer | None) -> None:
        self._nats = nats
        self._observer = observer

    async def serve(self, endpoint: Endpoint, group: list[Request]) -> None:
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

    async def _results(self, endpoint: Endpoint, call: Call[Any]) -> Sequence[Any] | None:
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

    async def _answer(self, endpoint: Endpoint, group: list[Request], results: Sequence[Any]) -> list[str]:
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
                await send(self._nats, request.reply, body, headers=headers)
            except NatsError as error:
                log.warning("%s: a reply could not be sent: %s", endpoint.verb.name, error)
        return failed

    def _count(
        self, endpoint: Endpoint, messages: int, items: int, failed: Sequence[str], started: float
    ) -> None:
        seconds = time.perf_counter() - started
        endpoint.served.answered(messages, seconds)
        if self._observer is not None:
            self._observer(endpoint.verb, items, failed, seconds)


def _of_item(verb: Verb[Any, Any], result: Any) -> Any:
    """Return the result, or `internal` for an exception that is no PenstockError: a bug that the handler collected."""
    if not isinstance(result, BaseException) or isinstance(result, PenstockError):
        return result
    log.error("%s: the handler failed on an item", verb.name, exc_info=result)
    return errors.make("internal")
