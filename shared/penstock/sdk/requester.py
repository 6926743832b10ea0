"""The requester of a client or a worker: with a codec, with tracing, or plain."""

import asyncio
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

from nats.aio.client import Client as Nats

from penstock.bus.payloads import plan_of
from penstock.bus.requester import Requester
from penstock.codecs import Codecs
from penstock.codecs._coding import Coding, coding_of
from penstock.messages.common import Reply, Request
from penstock.sdk.tracing import Tracing, tracing
from penstock.verbs import Verb

Req = TypeVar("Req", bound=Request)
Rep = TypeVar("Rep", bound=Reply)

_Coming = tuple[Verb[Any, Any], Request, float | None, "asyncio.Future[Any]"]


class Extras(NamedTuple):
    """What a client or a worker does beside sending requests."""

    coding: Coding | None
    tracing: Tracing | None

    @classmethod
    def of(cls, nats: Nats, codec: Codecs) -> Self:
        """Bind the user's codec to a connection, and look whether this process traces."""
        return cls(coding_of(codec, nats), tracing())

    def requester(self, nats: Nats, root: str, *, timeout: float = 10.0) -> Requester:
        """Return a requester that does these things; without any, the plain one, so that nothing is paid."""
        if self.coding is None and self.tracing is None:
            return Requester(nats, root, timeout=timeout)
        return _Requester(nats, root, timeout, self)


class _Requester(Requester):
    """A requester that traces, and codes the payloads of what it sends and decodes those of the replies."""

    def __init__(self, nats: Nats, root: str, timeout: float, extras: Extras) -> None:
        super().__init__(nats, root, timeout=timeout)
        self._coding, self._tracing = extras
        self._coming: list[_Coming] = []

    def send(
        self, verb: Verb[Req, Rep], request: Req, *, timeout: float | None = None
    ) -> "asyncio.Future[Rep]":
        ended = None if self._tracing is None else self._tracing.sends(verb.name, request)
        if self._coding is None or (plan_of(verb.request) is None and plan_of(verb.reply) is None):
            reply = super().send(verb, request, timeout=timeout)
        else:
            reply = self._send_coded(verb, request, timeout)
        if ended is not None:
            reply.add_done_callback(ended)
        return reply

    def _send_coded(self, verb: Verb[Req, Rep], request: Req, timeout: float | None) -> "asyncio.Future[Rep]":
        future: asyncio.Future[Rep] = asyncio.get_running_loop().create_future()
        self._coming.append((verb, request, timeout, future))
        if len(self._coming) == 1:
            self._start(self._send_tick())
        return future

    async def _send_tick(self) -> None:
        """Code and send the requests of one tick, in order: as one message, like those of a plain requester."""
        assert self._coding is not None
        coming, self._coming = self._coming, []
        coded = await asyncio.gather(
            *(self._coding.encode(request) for _, request, _, _ in coming), return_exceptions=True
        )
        for (verb, _, timeout, future), request in zip(coming, coded, strict=True):
            if isinstance(request, BaseException):
                if not future.done():
                    future.set_exception(request)
            else:
                answer = super().send(verb, request, timeout=timeout)
                answer.add_done_callback(partial(self._answered, verb, future))

    def _answered(
        self, verb: Verb[Any, Any], future: "asyncio.Future[Any]", answer: "asyncio.Future[Any]"
    ) -> None:
        error = None if answer.cancelled() else answer.exception()
        if future.done():
            return
        if answer.cancelled():
            future.cancel()
        elif error is not None:
            future.set_exception(error)
        else:
            self._start(self._decode(verb, future, answer.result()))

    async def _decode(self, verb: Verb[Any, Any], future: "asyncio.Future[Any]", reply: Any) -> None:
        assert self._coding is not None
        try:
            await self._coding.decode(reply, verb.reply)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(reply)
