"""A requester that codes the payloads of what it sends and decodes those of the replies."""

import asyncio
from functools import partial
from typing import Any, TypeVar

from nats.aio.client import Client as Nats

from penstock.bus.payloads import plan_of
from penstock.bus.requester import Requester
from penstock.codecs._coding import Coding
from penstock.messages.common import Reply, Request
from penstock.verbs import Verb

Req = TypeVar("Req", bound=Request)
Rep = TypeVar("Rep", bound=Reply)

_Coming = tuple[Verb[Any, Any], Request, float | None, "asyncio.Future[Any]"]


class CodingRequester(Requester):
    """A requester with a codec. Requests without payloads (renewals, for example) pass by the codec."""

    def __init__(self, nats: Nats, root: str, coding: Coding, *, timeout: float = 10.0) -> None:
        super().__init__(nats, root, timeout=timeout)
        self._coding = coding
        self._coming: list[_Coming] = []

    def send(
        self, verb: Verb[Req, Rep], request: Req, *, timeout: float | None = None
    ) -> "asyncio.Future[Rep]":
        if plan_of(verb.request) is None and plan_of(verb.reply) is None:
            return super().send(verb, request, timeout=timeout)
        future: asyncio.Future[Rep] = asyncio.get_running_loop().create_future()
        self._coming.append((verb, request, timeout, future))
        if len(self._coming) == 1:
            self._start(self._send_tick())
        return future

    async def _send_tick(self) -> None:
        """Code and send the requests of one tick, in order: as one message, like those of a plain requester."""
        coming, self._coming = self._coming, []
        coded = await asyncio.gather(
            *(self._coding.encode(request) for _, request, _, _ in coming), return_exceptions=True
        )
        for (verb, _, timeout, future), request in zip(coming, coded, strict=True):
            if isinstance(request, BaseException):
                if not future.done():
                    future.set_exception(request)
            else:
                super().send(verb, request, timeout=timeout).add_done_callback(
                    partial(self._answered, verb, future)
                )

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
        try:
            await self._coding.decode(reply, verb.reply)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(reply)


def requester_of(nats: Nats, root: str, coding: Coding | None, *, timeout: float = 10.0) -> Requester:
    """Return the requester of a client or a worker, with a codec or without."""
    if coding is None:
        return Requester(nats, root, timeout=timeout)
    return CodingRequester(nats, root, coding, timeout=timeout)
