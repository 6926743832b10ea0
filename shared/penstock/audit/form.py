"""The form of an audit event, and the hash chain that links the events.

A stored event is one JSON object, UTF-8, without spaces, its fields always in this order::

    {"event_id":…,"schema_version":1,"seq":…,"namespace":…,"entity":…,"id":…,"event":…,"at":…,"actor":…,
     "from":…,"to":…,"reason":…,"data":…,"prev_hash":"<64 hex digits>","hash":"<64 hex digits>"}

The **canonical form** of an event is this object without the last two fields, byte for byte as stored. Then

    hash = hex(SHA-256(prev_hash as 64 ASCII characters + canonical form))

and prev_hash is the hash of the previous event in the stream; the first event's prev_hash is 64 zeros. To check
an event in any language: replace its last 154 bytes (`,"prev_hash":"…","hash":"…"}`) by `}`, then hash. JSON is
never re-encoded, so the number formats and key orders of other libraries do not matter.

The chain reveals an event that was edited (its hash), removed, inserted or reordered (its prev_hash, its stream
sequence, its entity's gapless `seq`). The chain alone cannot reveal that the newest events were cut off: to detect
that, keep the last hash of a verification report somewhere else.
"""

import hashlib
import re
from typing import Any, Final

import msgspec
from msgspec import Struct

SCHEMA_VERSION: Final = 1
GENESIS: Final = b"0" * 64
"""The prev_hash of the first event in the stream."""
CURSOR_HEADER: Final = "Penstock-Cursor"
"""Header of each batch's last event: JSON {partition: id of the last outbox entry that the relay has published}."""

PARTITION: Final = "partition"
"""The entity of events about a partition as a whole."""
REWOUND: Final = "state_rewound"
"""The event that a partition's Valkey has lost changes whose events the stream has. Its `from` and `to` are outbox
positions; lost are the partition's events in the stream from `data.from_seq` to `data.to_seq`. After it, an entity's
`seq` may go on from a lower number. The relay makes it (services/penstock_audit_relay/rewound.py)."""

_PREV: Final = b',"prev_hash":"'
_HASH: Final = b'","hash":"'
_TAIL: Final = len(_PREV) + 64 + len(_HASH) + 64 + len(b'"}')
_TAIL_FORM: Final = re.compile(rb',"prev_hash":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}').fullmatch
_TOKENS: Final = re.compile(r"(?:[A-Za-z0-9_-]+\.){3}[A-Za-z0-9_-]+").fullmatch
_NO_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]")


class Facts(Struct, rename={"from_": "from"}, gc=False):
    """An event without prev_hash and hash, before the relay adds it to the chain."""

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
    """An event as stored in the stream."""

    prev_hash: str
    hash: str


canonical: Final = msgspec.json.Encoder().encode
"""`canonical(facts)`: encode the canonical form of an event."""
decode: Final = msgspec.json.Decoder(Event).decode
"""`decode(body)`: decode a stored event. Raises `msgspec.MsgspecError` if the body is no event."""


def seal(form: bytes, prev_hash: bytes) -> tuple[bytes, bytes]:
    """Chain a canonical form to `prev_hash`. Return the body to store and its hash, the next event's prev_hash."""
    digest = hashlib.sha256(prev_hash + form).hexdigest().encode()
    return b"".join((form[:-1], _PREV, prev_hash, _HASH, digest, b'"}')), digest


def unseal(body: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Split a stored body into canonical form, prev_hash and hash. Return None if it does not end like an event."""
    match = _TAIL_FORM(body, len(body) - _TAIL) if len(body) > _TAIL else None
    return (body[:-_TAIL] + b"}", match[1], match[2]) if match else None


def tokens(namespace: str, entity: str, event: str, id: str) -> str:
    """Return the part of an event's subject after `<root>.audit.`: namespace, entity, event and id.

    By contract all names are valid subject tokens. Should one be invalid, `_` replaces each invalid character, or
    an empty name, in the subject (not in the event).
    """
    subject = f"{namespace}.{entity}.{event}.{id}"
    if _TOKENS(subject):
        return subject
    return ".".join(_NO_TOKEN.sub("_", part) or "_" for part in (namespace, entity, event, id))
