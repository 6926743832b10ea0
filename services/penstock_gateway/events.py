"""`GET /v1/events`: audit events as they happen, as server-sent events.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. Each client has a queue of its
own; a client that reads too slowly is cut when the queue is full, so that it costs nobody else anything.
"""

import asyncio
import re
from typing import Any, Final

import msgspec
from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from penstock import errors
from penstock.bus.connection import Connection, identity_of
from penstock.bus.requester import listen
from penstock.ids import TOKEN_PATTERN
from penstock_gateway.answers import HttpError, refusal
from penstock_gateway.gateway import Gateway
from penstock_gateway.tokens import Bearer, may_hear

FILTERS: Final = ("namespace", "entity", "event", "id")
"""The filters, in the order of the tokens of an audit subject; those of `penstock audit tail`."""
GOODBYE_S: Final = 2.0
"""Seconds that a client gets to take the last event of its stream."""

DRAINING: Final = "draining"
SLOW: Final = "slow"
REVOKED: Final = "revoked"
GAP: Final = "gap"
LEFT: Final = "left"
"""Why a stream ends; `gap`: the gateway had lost NATS, and events with it. `left`: the client has gone."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
_filter: Final = re.compile(TOKEN_PATTERN).match


class _Id(msgspec.Struct):
    event_id: str


_id: Final = msgspec.json.Decoder(_Id)


class Events:
    """The endpoint, and the streams that are open."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open: set[_Stream] = set()
        self._refused = 0
        gateway.tokens.on_change.append(self._cut_revoked)
        gateway.metrics.limit("streams", lambda: self._refused)
        gateway.metrics.gauge(
            "penstock_gateway_event_streams", "Event streams that are open", lambda: len(self._open)
        )

    async def __call__(self, request: Request) -> Response:
        gateway = self._gateway
        bearer = gateway.admit(request)
        if request.method != "GET":  # Starlette lets HEAD pass, whose answer would not end
            raise HttpError(405, "this path takes GET")
        identity = identity_of(gateway.bus.nats)
        if not may_hear(bearer.role):
            raise errors.make("not_permitted", f"the role {bearer.role} does not hear audit events")
        if identity is not None and not may_hear(identity.role):
            raise errors.make("not_permitted", "the gateway's own user does not hear audit events")
        subject = f"{gateway.settings.root}.audit.{'.'.join(_filters(request))}"
        if gateway.draining:
            raise errors.make("timeout", "the gateway is stopping")
        if sum(stream.bearer == bearer for stream in self._open) >= gateway.settings.streams:
            self._refused += 1
            raise errors.make(
                "rate_limit_exceeded",
                f"a token has at most {gateway.settings.streams} event streams at once",
                retry_after_ms=1000,
            )
        return _Stream(gateway, bearer, subject, self._open)

    def drain(self) -> None:
        """End all streams."""
        for stream in list(self._open):
            stream.end(DRAINING)

    def _cut_revoked(self) -> None:
        for stream in list(self._open):
            if not self._gateway.tokens.knows(stream.bearer):
                stream.end(REVOKED)


def _filters(request: Request) -> list[str]:
    """Return the tokens that stand for the filters in a subject. Raise `invalid_request`."""
    given = dict(request.query_params)
    wanted = [given.pop(name, "*") for name in FILTERS]
    if given:
        raise errors.invalid(min(given), f"no such filter: there are {', '.join(FILTERS)}")
    for name, value in zip(FILTERS, wanted, strict=True):
        if value != "*" and not _filter(value):
            raise errors.invalid(name, "a filter has A-Z a-z 0-9 _ - only, up to 128")
    return wanted


class _Stream(Response):
    """One client's stream, from its subscription to its end."""

    def __init__(self, gateway: Gateway, bearer: Bearer, subject: str, streams: "set[_Stream]") -> None:
        super().__init__(headers=_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self.bearer = bearer
        self._metrics = gateway.metrics
        self._nats = gateway.bus.nats
        self._connection = _connection_of(self._nats)
        self._subject = subject
        self._streams = streams
        self._silence = gateway.settings.heartbeat_ms / 1000
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(gateway.settings.stream_queue)
        self._why: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        streams.add(self)  # now, so that the count holds for requests that come together

    def end(self, why: str) -> None:
        """End the stream; its last event says why."""
        if not self._why.done():
            self._why.set_result(why)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        subscription: Subscription | None = None
        tasks: set[asyncio.Future[Any]] = set()
        try:
            try:
                subscription = await listen(self._nats, self._subject, self._on_event)
                await self._nats.flush()  # from here on, no event is missed
            except (nats_errors.Error, OSError, TimeoutError):
                failed = errors.make("timeout", "the gateway cannot reach NATS now")
                await refusal(failed)(scope, receive, send)
                return
            tasks = {
                asyncio.ensure_future(self._write(send)),
                asyncio.ensure_future(_left(receive)),
                asyncio.ensure_future(self._nats.closed.wait()),
            }
            await asyncio.wait({*tasks, self._why}, return_when=asyncio.FIRST_COMPLETED)
            if self._why.done():
                # The writer ends by itself, unless it is stuck because the client reads nothing.
                await asyncio.wait(tasks, timeout=GOODBYE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.discard(self)
            self._metrics.stream_ended(self._why.result() if self._why.done() else LEFT)
            for task in tasks:
                task.cancel()
            if subscription is not None and not self._nats.is_closed:
                await subscription.unsubscribe()

    def _end_after_gap(self) -> None:
        if _connection_of(self._nats) != self._connection:
            self.end(GAP)

    async def _on_event(self, msg: Msg) -> None:
        self._end_after_gap()
        try:
            event_id = "".join(_id.decode(msg.data).event_id.split())
        except msgspec.MsgspecError:  # no audit event: somebody else has published it
            return
        lines = msg.data.replace(b"\r", b"").replace(b"\n", b"\ndata: ")
        try:
            self._queue.put_nowait(b"id: %s\ndata: %s\n\n" % (event_id.encode(), lines))
        except asyncio.QueueFull:
            self.end(SLOW)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send(send, b": open\n\n")
        while not self._why.done():
            taking = asyncio.ensure_future(self._queue.get())
            try:
                await asyncio.wait(
                    {taking, self._why}, timeout=self._silence, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                taking.cancel()  # changes nothing if it is done
            self._end_after_gap()
            if taking.done() and not taking.cancelled():
                await _send(send, taking.result())
            elif not self._why.done():
                await _send(send, b": nothing new\n\n")
        await _send(send, b'event: end\ndata: {"reason":"%s"}\n\n' % self._why.result().encode(), more=False)


def _connection_of(nats: Connection) -> int:
    """Return a number that is another one after each reconnect."""
    return nats.stats["reconnects"]


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _left(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
