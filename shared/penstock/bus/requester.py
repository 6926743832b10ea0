"""The client side of request/reply, with typed requests, replies and errors.

Requests of one batch verb made in one event-loop tick leave as one JSON array, and the reply is spread over
their futures. One inbox subscription receives all replies, and each message has one timer for its timeout, so
that a request costs its caller little more than a future.
"""

import asyncio
import re
from collections.abc import Coroutine, Iterator, Sequence
from functools import cached_property
from typing import Any, Final, TypeVar

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from penstock import errors
from penstock.bus import callers
from penstock.bus.connection import Connection, identity_of
from penstock.bus.listening import listen
from penstock.bus.replies import is_no_responders, nobody_answers, refusal, spread
from penstock.bus.sending import post, write
from penstock.ids import IN_WORDS, TOKEN_PATTERN
from penstock.messages.common import Reply, Request
from penstock.verbs import Verb

Req = TypeVar("Req", bound=Request)
Rep = TypeVar("Rep", bound=Reply)

MAX_ITEMS: Final = 500
# How long a request is sent again while there are no responders: a restarting service is back soon. "No
# responders" means that nothing was delivered, so sending again is always safe.
PATIENCE_S: Final = 3.0
FIRST_RETRY_S: Final = 0.05
# Bytes reserved within max_payload for what travels with the body: subject, headers, reply subject.
_HEADROOM: Final = 1024
# The service holds these requests open until an event comes: in a batch, all would wait for the slowest.
_PARKED: Final = frozenset({"execution.execute", "execution.wait", "work.next"})

encode: Final = msgspec.json.Encoder().encode


class _Queue:
    """Requests of one verb with one timeout, collected until the end of the tick."""

    __slots__ = ("futures", "requests", "timeout", "verb")

    def __init__(self, verb: Verb[Any, Any], timeout: float) -> None:
        self.verb = verb
        self.timeout = timeout
        self.requests: list[Request] = []
        self.futures: list[asyncio.Future[Any]] = []


class _Message:
    """One request message that is waiting for its reply."""

    __slots__ = ("array", "body", "delay", "futures", "patience", "timer", "verb")

    def __init__(
        self, verb: Verb[Any, Any], body: bytes, futures: Sequence[asyncio.Future[Any]], array: bool
    ) -> None:
        self.verb = verb
        self.body = body
        self.futures = futures
        self.array = array
        self.delay = FIRST_RETRY_S
        self.patience = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def fail(self, error: Exception) -> None:
        for future in self.futures:
            if not future.done():
                future.set_exception(error)


class Requester:
    """Caller of verbs over one NATS connection.

    >>> record = await requester.call(verbs.EXECUTION_GET, ExecutionGet(execution_id=...))
    """

    def __init__(
        self, nats: Nats, root: str = "penstock", *, timeout: float = 10.0, patience: float = PATIENCE_S
    ) -> None:
        """Raise InvalidError if `root` is no token: it begins every subject."""
        if not re.match(TOKEN_PATTERN, root):
            raise errors.invalid("root", f"must be {IN_WORDS[TOKEN_PATTERN]}")
        self.nats = nats
        self.root = root
        self._timeout = timeout
        self._patience = patience
        self._queues: dict[tuple[str, float], _Queue] = {}
        self._inflight: dict[str, _Message] = {}
        self._serial = 0
        self._inbox = nats.new_inbox() + "."
        self._identity = identity_of(nats)
        self._subjects: dict[str, str] = {}
        if isinstance(nats, Connection):
            nats.on_refused.append(self._refused)
        self._subscription: Subscription | None = None
        self._subscribing = asyncio.Lock()
        self._sending: set[asyncio.Task[None]] = set()

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop. Asked for once: before Python 3.12 that is a system call, and each task has its requests."""
        return asyncio.get_running_loop()

    async def call(self, verb: Verb[Req, Rep], request: Req, *, timeout: float | None = None) -> Rep:
        """Send one request and wait for its reply.

        Raise the typed `PenstockError` that the service replied. Raise `timeout` (an `UnavailableError`) if no
        reply came in time or there are no responders: the change may or may not have happened.
        """
        return await self.send(verb, request, timeout=timeout)

    def send(
        self, verb: Verb[Req, Rep], request: Req, *, timeout: float | None = None
    ) -> "asyncio.Future[Rep]":
        """Send one request without waiting. Return a future of the reply; it raises as `call` does."""
        future: asyncio.Future[Rep] = self.loop.create_future()
        if timeout is None:
            timeout = self._timeout
        if not self._queues:
            self.loop.call_soon(self._flush)
        key = (verb.name, timeout)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(verb, timeout)
        queue.requests.append(request)
        queue.futures.append(future)
        return future

    async def close(self) -> None:
        """Unsubscribe from the inbox; requests still waiting for a reply fail with `timeout`."""
        if isinstance(self.nats, Connection) and self._refused in self.nats.on_refused:
            self.nats.on_refused.remove(self._refused)
        inflight, self._inflight = self._inflight, {}
        for message in inflight.values():
            if message.timer:
                message.timer.cancel()
            message.fail(errors.make("timeout", "the requester was closed before an answer came"))
        if self._subscription is not None and not self.nats.is_closed:
            await self._subscription.unsubscribe()
        self._subscription = None

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the caller. The set keeps it alive: the event loop holds only a weak reference."""
        task = self.loop.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _flush(self) -> None:
        """Send the requests that were queued in this tick."""
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            for message in self._messages(queue):
                self._send_message(message, queue.timeout)
        write(self.nats)

    def _messages(self, queue: _Queue) -> Iterator[_Message]:
        """Pack a queue's requests into messages: arrays as large as allowed for batch verbs, else one by one."""
        verb, limit = queue.verb, self.nats.max_payload - _HEADROOM
        batch = verb.batch and verb.name not in _PARKED
        bodies: list[bytes] = []
        futures: list[asyncio.Future[Any]] = []
        size = 2

        def message() -> _Message:
            if len(bodies) == 1:
                return _Message(verb, bodies[0], futures, array=False)
            return _Message(verb, b"[" + b",".join(bodies) + b"]", futures, array=True)

        for request, future in zip(queue.requests, queue.futures, strict=True):
            try:
                body = encode(request)
            except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
                future.set_exception(errors.make("invalid_request", f"{verb.name}: {error}"))
                continue
            if len(body) > limit:
                text = f"{verb.name}: the request is {len(body)} bytes; the NATS server takes {limit}"
                detail = {"limit": limit, "size": len(body)}
                future.set_exception(errors.make("payload_too_large", text, detail=detail))
                continue
            if bodies and (not batch or len(bodies) >= MAX_ITEMS or size + len(body) + 1 > limit):
                yield message()
                bodies, futures, size = [], [], 2
            bodies.append(body)
            futures.append(future)
            size += len(body) + 1
        if bodies:
            yield message()

    def _send_message(self, message: _Message, timeout: float) -> None:
        self._serial += 1
        token = str(self._serial)
        message.patience = self.loop.time() + min(self._patience, timeout)
        message.timer = self.loop.call_later(timeout, self._expire, token, timeout)
        self._inflight[token] = message
        subject = self._subject(message.verb)
        if self._subscription is None or not post(self.nats, subject, message.body, self._inbox + token):
            self._start(self._publish(token, message))

    def _subject(self, verb: Verb[Any, Any]) -> str:
        subject = self._subjects.get(verb.name)
        if subject is None:
            subject = self._subjects[verb.name] = callers.subject(verb, self.root, self._identity)
        return subject

    async def _publish(self, token: str, message: _Message) -> None:
        try:
            if self._subscription is None:
                await self._subscribe()
            subject = self._subject(message.verb)
            await self.nats.publish(subject, message.body, reply=self._inbox + token)
        except (nats_errors.Error, OSError) as error:
            # Nothing was sent: the connection is closed, or the outgoing buffer is full after a long outage.
            text = f"{message.verb.name} could not be sent to NATS ({type(error).__name__})"
            self._settle(token, errors.make("timeout", text))

    async def _subscribe(self) -> None:
        async with self._subscribing:
            if self._subscription is None:
                self._subscription = await listen(self.nats, self._inbox + "*", self._on_reply)

    def _settle(self, token: str, error: Exception | None = None) -> _Message | None:
        """Remove a message that got its reply, or that fails with `error`. Return it, or None if it is unknown."""
        message = self._inflight.pop(token, None)
        if message is not None:
            if message.timer:
                message.timer.cancel()
            if error is not None:
                message.fail(error)
        return message

    def _refused(self, subject: str) -> None:
        """Fail the requests that NATS has not let pass, instead of waiting for their replies."""
        for token, message in list(self._inflight.items()):
            if self._subject(message.verb).lower() == subject:
                text = f"NATS does not let this user ask for {message.verb.name}"
                self._settle(token, errors.make("not_permitted", text, detail={"verb": message.verb.name}))

    def _expire(self, token: str, timeout: float) -> None:
        message = self._inflight.get(token)
        if message is not None:
            how = f"no answer within {timeout:g} s from"
            self._settle(token, nobody_answers(message.verb, self.root, how))

    def _on_reply(self, msg: Msg) -> None:
        token = msg.subject[len(self._inbox) :]
        if is_no_responders(msg):
            self._ask_again(token)
            return
        error = refusal(msg)
        message = self._settle(token, error)
        if message is None or error is not None:
            return
        try:
            spread(message.verb, msg.data, message.futures, array=message.array)
        except msgspec.MsgspecError as bad:
            message.fail(errors.make("internal", f"the reply to {message.verb.name} is malformed: {bad}"))

    def _ask_again(self, token: str) -> None:
        message = self._inflight.get(token)
        if message is None:
            return
        if self.loop.time() >= message.patience:
            self._settle(token, nobody_answers(message.verb, self.root, "nobody answers"))
            return

        def again() -> None:
            if token in self._inflight:
                self._start(self._publish(token, message))

        self.loop.call_later(message.delay, again)
        message.delay = min(message.delay * 2, 0.5)
