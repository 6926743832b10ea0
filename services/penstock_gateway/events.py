"""`GET /v1/events`: audit events as they happen, as server-sent events.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. An event's `id` is its sequence
in the audit stream. A client that comes back with the last one it has seen gets all that came after it, in order.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from penstock import errors
from penstock.bus.connection import identity_of
from penstock.ids import TOKEN_PATTERN
from penstock_gateway.answers import HttpError
from penstock_gateway.feed import UNREACHABLE, Feed, State, Stored
from penstock_gateway.gateway import Gateway
from penstock_gateway.tokens import Bearer, may_hear, may_read

FILTERS: Final = ("namespace", "entity", "event", "id")
"""The filters, those of `penstock audit tail`."""
AFTER: Final = "after"
LAST_EVENT_ID: Final = "Last-Event-ID"
"""The parameter and the header that name the last event that a client has seen. The header wins: a browser that
reconnects sends it, with the parameters of its first request.
"""
ABSENCE_S: Final = 3600.0
"""Seconds that a client may have been away whose role only hears events, and does not read the stream."""
GOODBYE_S: Final = 2.0
"""Seconds that a client gets to take the last event of its stream."""

DRAINING: Final = "draining"
REVOKED: Final = "revoked"
GAP: Final = "gap"
LEFT: Final = "left"
"""Why a stream ends; `gap`: the next event for this client is kept no more. `left`: the client has gone."""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
_filter: Final = re.compile(TOKEN_PATTERN).match
_sequence: Final = re.compile(r"[0-9]{1,18}").fullmatch


class _Wish(NamedTuple):
    """What a client wants to hear. after: the last event that it has seen; None: it begins now."""

    filters: tuple[str, ...]
    after: int | None

    def admits(self, each: Stored) -> bool:
        return each.event is not None and all(
            wanted in ("*", told) for wanted, told in zip(self.filters, each.about, strict=True)
        )


class Events:
    """The endpoint, and the streams that are open."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open: set[_Stream] = set()
        self._refused = 0
        self._feed: Feed | None = None
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
        if identity is not None and not (may_hear(identity.role) and may_read(identity.role)):
            raise errors.make(
                "not_permitted", "the gateway's own user does not read audit events: give it the role gateway"
            )
        wish = _wish(request)
        if gateway.draining:
            raise errors.make("timeout", "the gateway is stopping")
        if sum(stream.bearer == bearer for stream in self._open) >= gateway.settings.streams:
            self._refused += 1
            raise errors.make(
                "rate_limit_exceeded",
                f"a token has at most {gateway.settings.streams} event streams at once",
                retry_after_ms=1000,
            )
        if self._feed is None:
            self._feed = Feed(gateway.bus.nats, gateway.settings.root)
        return _Stream(gateway, self._feed, bearer, wish, self._open)

    def drain(self) -> None:
        """End all streams."""
        for stream in list(self._open):
            stream.end(DRAINING)

    def _cut_revoked(self) -> None:
        for stream in list(self._open):
            if not self._gateway.tokens.knows(stream.bearer):
                stream.end(REVOKED)


def _wish(request: Request) -> _Wish:
    """Read the filters, and where to begin. Raise `invalid_request`."""
    given = dict(request.query_params)
    filters = tuple(given.pop(name, "*") for name in FILTERS)
    asked = given.pop(AFTER, "")
    if given:
        raise errors.invalid(min(given), f"no such parameter: there are {', '.join((*FILTERS, AFTER))}")
    for name, value in zip(FILTERS, filters, strict=True):
        if value != "*" and not _filter(value):
            raise errors.invalid(name, "a filter has A-Z a-z 0-9 _ - only, up to 128")
    header = request.headers.get(LAST_EVENT_ID, "")
    after = header or asked
    if after and not _sequence(after):
        raise errors.invalid(LAST_EVENT_ID if header else AFTER, "it must be the id of an event: a number")
    return _Wish(filters, int(after) if after else None)


class _Stream(Response):
    """One client's stream, from its beginning to its end."""

    def __init__(
        self, gateway: Gateway, feed: Feed, bearer: Bearer, wish: _Wish, streams: "set[_Stream]"
    ) -> None:
        super().__init__(headers=_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self.bearer = bearer
        self._metrics = gateway.metrics
        self._closed = gateway.bus.nats.closed
        self._feed = feed
        self._wish = wish
        self._streams = streams
        self._silence = gateway.settings.heartbeat_ms / 1000
        self._seen = 0
        """The sequence of the last event that the client has, or did not want."""
        self._why: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        streams.add(self)  # now, so that the count holds for requests that come together

    def end(self, why: str) -> None:
        """End the stream; its last event says why."""
        if not self._why.done():
            self._why.set_result(why)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._feed.join()
        try:
            try:
                await self._feed.begun()
                self._seen = await self._begin()
            except UNREACHABLE:
                raise errors.make("timeout", "the gateway cannot read the audit stream now") from None
            await self._stream(receive, send)
        finally:
            self._streams.discard(self)
            self._feed.leave()

    async def _stream(self, receive: Receive, send: Send) -> None:
        tasks: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(self._write(send)),
            asyncio.ensure_future(_left(receive)),
            asyncio.ensure_future(self._closed.wait()),
        }
        try:
            await asyncio.wait({*tasks, self._why}, return_when=asyncio.FIRST_COMPLETED)
            if self._why.done():
                # The writer ends by itself, unless it is stuck because the client reads nothing.
                await asyncio.wait(tasks, timeout=GOODBYE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._metrics.stream_ended(self._why.result() if self._why.done() else LEFT)
            for task in tasks:
                task.cancel()

    async def _begin(self) -> int:
        """Return the sequence after which the stream begins.

        Raise HttpError if what follows is kept no more, `not_permitted`, or one of UNREACHABLE.
        """
        state, after = await self._feed.state(), self._wish.after
        if after is None:
            return state.last
        _check_kept(after, state)
        if not may_read(self.bearer.role):
            found = await self._feed.after(after)
            if found and found[0].event and found[0].event.at < (time.time() - ABSENCE_S) * 1000:
                raise errors.make(
                    "not_permitted",
                    f"the role {self.bearer.role} gets events of the last hour only; an auditor gets all",
                )
        return after

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        # A block without data is no event, but the client remembers its id.
        await _send(send, b": open\nid: %d\n\n" % self._seen)
        losses, quiet_until = self._feed.losses, _now() + self._silence
        while not self._why.done():
            try:
                found = await self._feed.after(self._seen)
            except UNREACHABLE:  # the feed tells of it, and tries on
                found = ()
            gap = found and found[-1].seq - self._seen != len(found)
            if gap or self._feed.losses != losses:
                self.end(GAP)
            elif lines := self._lines(found):
                await _send(send, lines)
                quiet_until = _now() + self._silence
            elif not found:
                await self._rest(quiet_until - _now())
            if _now() >= quiet_until and not self._why.done():
                await _send(send, b": nothing new\nid: %d\n\n" % self._seen)
                quiet_until = _now() + self._silence
        told = b'id: %d\nevent: end\ndata: {"reason":"%s"}\n\n' % (self._seen, self._why.result().encode())
        await _send(send, told, more=False)

    def _lines(self, found: Sequence[Stored]) -> bytes:
        """Return what is to be sent of these events, and remember that the client has them."""
        if found:
            self._seen = found[-1].seq
        return b"".join(
            b"id: %d\ndata: %s\n\n" % (each.seq, each.body.replace(b"\r", b"").replace(b"\n", b"\ndata: "))
            for each in found
            if self._wish.admits(each)
        )

    async def _rest(self, patience: float) -> None:
        """Wait for news, for the end, or for this many seconds."""
        news = asyncio.ensure_future(self._feed.news(self._seen, max(patience, 0.0)))
        try:
            await asyncio.wait({news, self._why}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()  # changes nothing if it is done


def _check_kept(after: int, state: State) -> None:
    told = {"first": state.first, "last": state.last}
    if after > state.last:
        raise HttpError(410, f"there is no event {after}: the last one is {state.last}", told)
    if after + 1 < state.first:
        raise HttpError(410, f"what followed event {after} is kept no more: the first is {state.first}", told)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _left(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
