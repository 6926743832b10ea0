"""The audit trail: what an event looks like, how events are chained, and how to prove that they are whole.

A stored event is one JSON object, UTF-8, without spaces, its fields always in this order::

    {"event_id":…,"schema_version":1,"seq":…,"namespace":…,"entity":…,"id":…,"event":…,"at":…,"actor":…,
     "from":…,"to":…,"reason":…,"data":…,"prev_hash":"<64 hex digits>","hash":"<64 hex digits>"}

Its **canonical form** is the object without the last two fields, byte for byte as it stands there. Then

    hash = hex(SHA-256(prev_hash as 64 ASCII characters + canonical form))

and prev_hash is the hash of the event before it in the stream; the very first has 64 zeros. To check one in
any language: cut off the last 154 bytes (`,"prev_hash":"…","hash":"…"}`), put `}` in their place, hash. No
JSON needs to be re-encoded, so number formats and key orders of other libraries do not matter.

What the chain shows: an event that was edited (its hash), removed, inserted or reordered (the link to the
one before; also its stream sequence and its entity's gapless `seq`). What it cannot show by itself: that the
newest events were cut off the end; keep the last hash of a report elsewhere for that.
"""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

SCHEMA_VERSION: Final = 1
GENESIS: Final = b"0" * 64
"""The prev_hash of the first event of all."""
CURSOR_HEADER: Final = "Penstock-Cursor"
"""On the last event of each batch: JSON {partition: outbox entry id}, up to where the relay has come."""
PAGE: Final = 1000
PAGE_TIMEOUT: Final = 15.0

_PREV: Final = b',"prev_hash":"'
_HASH: Final = b'","hash":"'
_TAIL: Final = len(_PREV) + 64 + len(_HASH) + 64 + len(b'"}')
_TAIL_FORM: Final = re.compile(rb',"prev_hash":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}').fullmatch
_TOKENS: Final = re.compile(r"(?:[A-Za-z0-9_-]+\.){3}[A-Za-z0-9_-]+").fullmatch
_NO_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]")


class Facts(Struct, rename={"from_": "from"}, gc=False):
    """What happened: an event before it has its place in the chain."""

    event_id: str
    schema_version: int
    seq: int
    namespace: str
    entity: str
    id: str
    event: str
    at: int
    actor: str | None
    from_: str | None
    to: str | None
    reason: str | None
    data: Any


class Event(Facts, rename={"from_": "from"}, gc=False):
    """An event as the stream has it."""

    prev_hash: str
    hash: str


canonical: Final = msgspec.json.Encoder().encode
"""`canonical(facts)`: the canonical form of an event."""
decode: Final = msgspec.json.Decoder(Event).decode
"""`decode(body)`: a stored event; raises `msgspec.MsgspecError` when it is none."""


def seal(form: bytes, prev_hash: bytes) -> tuple[bytes, bytes]:
    """The body to store for a canonical form after `prev_hash`, and its hash (the next one's prev_hash)."""
    digest = hashlib.sha256(prev_hash + form).hexdigest().encode()
    return b"".join((form[:-1], _PREV, prev_hash, _HASH, digest, b'"}')), digest


def unseal(body: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The canonical form, prev_hash and hash of a stored body; None when it does not end like an event."""
    match = _TAIL_FORM(body, len(body) - _TAIL) if len(body) > _TAIL else None
    return (body[:-_TAIL] + b"}", match[1], match[2]) if match else None


def tokens(namespace: str, entity: str, event: str, id: str) -> str:
    """The part of an event's subject that tells what it is about, after `<root>.audit.`.

    Names are tokens by contract; should one not be, it is spelt with `_` here (not in the event).
    """
    subject = f"{namespace}.{entity}.{event}.{id}"
    if _TOKENS(subject):
        return subject
    return ".".join(_NO_TOKEN.sub("_", part) or "_" for part in (namespace, entity, event, id))


class Problem(NamedTuple):
    """Something that must not be. `kind`: edited, broken_link, missing, repeated, removed, not_an_event (one that is
    linked into the chain and yet tells of nothing)."""

    stream_seq: int
    kind: str
    message: str


class Report(Struct):
    """What a verification found. `ok` when nothing is wrong with what is there."""

    events: int = 0
    entities: int = 0
    first_seq: int = 0
    last_seq: int = 0
    head_cut: bool = False
    """Older events have left the stream by its limits: the proof starts at `first_seq`."""
    last_hash: str = GENESIS.decode()
    strangers: int = 0
    """Messages that are no events at all: somebody else may publish to the stream. They are no links of the chain."""
    first_stranger: int | None = None
    """The stream sequence of the first of them."""
    problem_count: int = 0
    problems: list[Problem] = []
    """The first ones."""

    @property
    def ok(self) -> bool:
        return self.problem_count == 0

    def sentence(self) -> str:
        """The result in words."""
        span = f"{self.events} events of {self.entities} entities, stream {self.first_seq} to {self.last_seq}"
        if not self.ok:
            first = self.problems[0]
            others = f" ({self.problem_count} problems in all)" if self.problem_count > 1 else ""
            return f"BROKEN at stream sequence {first.stream_seq}: {first.message}{others}; {span}"
        if not self.events and not self.strangers:
            return "there are no events in the stream" + (" any more" if self.head_cut else "")
        start = f"; older ones have left it: the proof starts at {self.first_seq}" if self.head_cut else ""
        others = ""
        if self.strangers:
            others = (
                f"; {self.strangers} messages in the stream are none of Penstock's, the first at {self.first_stranger}:"
                " somebody else may publish there"
            )
        return f"the chain is whole: {span}; last hash {self.last_hash}{start}{others}"


class _Key(Struct, gc=False):
    entity: str
    id: str
    seq: int


_key: Final = msgspec.json.Decoder(_Key).decode


class Verifier:
    """Checks events one by one, in stream order; `report` tells how it went so far."""

    KEPT: Final = 20

    def __init__(self) -> None:
        self.report = Report()
        self._prev = GENESIS
        self._seqs: dict[str, int] = {}

    def feed(self, stream_seq: int, body: bytes) -> None:
        """The next message of the stream."""
        report = self.report
        if report.first_seq == 0:
            report.first_seq = stream_seq
            report.head_cut = stream_seq > 1
        elif stream_seq != report.last_seq + 1:
            self._problem(stream_seq, "removed", f"after {report.last_seq} comes {stream_seq} in the stream")
        report.last_seq = stream_seq
        parts = unseal(body)
        if parts is None:
            report.strangers += 1
            if report.first_stranger is None:
                report.first_stranger = stream_seq
            return
        report.events += 1
        form, prev, digest = parts
        if prev != self._prev and not (report.head_cut and report.events == 1):
            self._problem(stream_seq, "broken_link", "its prev_hash is not the hash of the event before it")
        if hashlib.sha256(prev + form).hexdigest().encode() != digest:
            self._problem(stream_seq, "edited", "its hash does not fit its content")
        self._prev = digest
        report.last_hash = digest.decode()
        try:
            key = _key(form)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._problem(stream_seq, "not_an_event", "the message is no audit event")
            return
        self._follow(stream_seq, key)

    def _follow(self, stream_seq: int, key: _Key) -> None:
        name = f"{key.entity} {key.id}"
        last = self._seqs.get(name)
        self._seqs[name] = key.seq
        if last is None:
            self.report.entities += 1
            if key.seq != 1 and not self.report.head_cut:
                self._problem(stream_seq, "missing", f"{name} begins with event {key.seq}, not 1")
        elif key.seq != last + 1:
            kind = "missing" if key.seq > last else "repeated"
            self._problem(stream_seq, kind, f"{name}: event {key.seq} follows event {last}")

    def finish(self, last_seq: int) -> Report:
        """The report; `last_seq` is the stream's own idea of its last sequence."""
        report = self.report
        if not report.events and not report.strangers:
            report.head_cut = last_seq > 0
        elif report.last_seq < last_seq:
            self._problem(last_seq, "removed", f"the messages end at {report.last_seq}, not {last_seq}")
        return report

    def _problem(self, stream_seq: int, kind: str, message: str) -> None:
        self.report.problem_count += 1
        if len(self.report.problems) < self.KEPT:
            self.report.problems.append(Problem(stream_seq, kind, message))


def verify_messages(messages: Iterable[tuple[int, bytes]]) -> Report:
    """Verifies (stream sequence, body) pairs, wherever they come from."""
    verifier = Verifier()
    for stream_seq, body in messages:
        verifier.feed(stream_seq, body)
    return verifier.report


async def verify(nats: Client, stream: str, progress: Callable[[int, int], object] | None = None) -> Report:
    """Verifies the whole stream as it is now, from its first message to its last.

    `progress(done, total)` is called after each page. Raises what NATS raises when it cannot be read.
    """
    info = await nats.jetstream().stream_info(stream)
    last_seq, total = info.state.last_seq, info.state.messages
    verifier = Verifier()
    async for page in pages(nats, stream, info.state.first_seq, last_seq):
        for stream_seq, body in page:
            verifier.feed(stream_seq, body)
        if progress is not None:
            progress(verifier.report.events, max(total, verifier.report.events))
    return verifier.finish(last_seq)


async def pages(
    nats: Client, stream: str, first_seq: int, last_seq: int
) -> AsyncIterator[list[tuple[int, bytes]]]:
    """The stream's messages in order, (sequence, body), many at a time; no consumer is left behind.

    Raises NoRespondersError when the stream cannot be read, TimeoutError when the answer stops halfway.
    """
    inbox = nats.new_inbox()
    page: list[tuple[int, bytes]] = []
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        headers = message.headers or {}
        if "Nats-Sequence" in headers:
            page.append((int(headers["Nats-Sequence"]), message.data))
        elif not ended.done():
            ended.set_result(headers.get("Status", ""))

    # No limits: nats-py would drop messages beyond them.
    subscription = await nats.subscribe(inbox, cb=take, pending_msgs_limit=0, pending_bytes_limit=0)
    try:
        while first_seq <= last_seq:
            page, ended = [], asyncio.get_running_loop().create_future()
            ask = {"seq": first_seq, "batch": min(PAGE, last_seq - first_seq + 1)}
            await nats.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(ask), reply=inbox)
            async with asyncio.timeout(PAGE_TIMEOUT):
                status = await ended
            if status == "503":
                raise NoRespondersError
            if not page:
                return
            yield [message for message in page if message[0] <= last_seq]
            first_seq = page[-1][0] + 1
    finally:
        await subscription.unsubscribe()
