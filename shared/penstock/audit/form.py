"""What an audit event looks like, and how events are chained.

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

import hashlib
import re
from typing import Any, Final

import msgspec
from msgspec import Struct

SCHEMA_VERSION: Final = 1
GENESIS: Final = b"0" * 64
"""The prev_hash of the first event of all."""
CURSOR_HEADER: Final = "Penstock-Cursor"
"""On the last event of each batch: JSON {partition: outbox entry id}, up to where the relay has come."""

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
