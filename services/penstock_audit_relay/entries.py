"""Outbox entries: each is a msgpack array [head, event, head, event, …], packed by lua/core/events.lua.

head = [entity, namespace, id]; event = [seq, name, at, actor, from, to, reason, data], "" for an absent field.

A batch says the same of many records. Such a *run* of events is one pair, whose head has an array of ids; what is the
same for all of them is encoded once.
"""

import re
from typing import Any, Final, NamedTuple

import msgspec

from penstock.audit import SCHEMA_VERSION, Facts, canonical, tokens
from penstock_audit_relay.counting import Told, is_counted

_unpack: Final = msgspec.msgpack.Decoder().decode
_pack: Final = msgspec.msgpack.Encoder().encode
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_SLOT: Final = "\0"
_SLOT_IN_JSON: Final = b"\\u0000"
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError, RecursionError)


class Broken(NamedTuple):
    """An unreadable entry, or one malformed event of an entry. It becomes a dead letter."""

    why: str
    payload: bytes


Formed = tuple[tuple[str, str], bytes, bytes]
"""An event for the chain: (entity, event's name), `audit.tokens`, canonical form."""


class Entry(NamedTuple):
    """One outbox entry, ready for the chain. told: what is counted of its events."""

    partition: int
    id: str
    events: list[Formed]
    broken: list[Broken]
    told: list[Told] = []

    @property
    def size(self) -> int:
        """Bytes of all events of the entry."""
        return sum(len(form) for _, _, form in self.events)


def read(partition: int, entry_id: str, blob: bytes, limit: int) -> Entry:
    """Decode the entry in `blob`. In an event of more than `limit` bytes, replace the data by a note."""
    entry = Entry(partition, entry_id, [], [], [])
    try:
        items = _unpack(blob)
        if type(items) is not list or len(items) % 2:
            raise ValueError("not an array of heads and events")
    except _UNREADABLE as error:
        entry.broken.append(Broken(f"the outbox entry cannot be read: {error}", blob))
        return entry
    pairs = iter(items)
    for head, event in zip(pairs, pairs, strict=True):
        try:
            entity, namespace, ids = head
            if type(ids) is not list:
                ids = [ids]
            forms = _run(entity, namespace, ids, event, limit)
            entry.events.extend(forms or [_alone(entity, namespace, id, event, limit) for id in ids])
            if entity == "execution":
                _, name, at, _, _, to, reason, data = event
                if is_counted(name, to):
                    entry.told.extend([Told(id, namespace, name, at, to, reason, data) for id in ids])
        except _UNREADABLE as error:
            why = f"an event of the outbox entry is malformed: {error}"
            entry.broken.append(Broken(why, _pack([head, event])))
    return entry


def _run(entity: str, namespace: str, ids: list[str], event: Any, limit: int) -> list[Formed] | None:
    """Return the events of a run: encoded once, with each id put in. None where only one at a time will do."""
    if len(ids) < 2 or not all(ids) or not _TOKEN("".join(ids)):
        return None
    kind, subject, form = _form(entity, namespace, _SLOT, event)
    prefix = f"{namespace}.{entity}.{event[1]}."
    if subject != f"{prefix}_".encode() or len(form) + 2 * max(map(len, ids)) > limit:
        return None
    # An id is in the form twice, and before it only what has just been found to be tokens.
    before, between, after = form.split(_SLOT_IN_JSON, 2)
    start = prefix.encode()
    return [(kind, start + id, b"".join((before, id, between, id, after))) for id in map(str.encode, ids)]


def _alone(entity: str, namespace: str, id: str, event: Any, limit: int) -> Formed:
    whole = _form(entity, namespace, id, event)
    if (size := len(whole[2])) <= limit:
        return whole
    short = _form(entity, namespace, id, [*event[:7], {"omitted": "too large for a message", "bytes": size}])
    if len(short[2]) > limit:
        raise ValueError("too large for a message")
    return short


def _form(entity: Any, namespace: Any, id: Any, event: Any) -> Formed:
    seq, name, at, actor, from_, to, reason, data = event
    if not type(seq) is type(at) is int:
        raise ValueError("seq and at must be integers")
    if not type(entity) is type(namespace) is type(id) is type(name) is str:
        raise ValueError("entity, namespace, id and name must be texts")
    if not type(actor) is type(from_) is type(to) is type(reason) is str:
        actor, from_, to, reason = map(str, (actor, from_, to, reason))
    return formed(Facts(
        f"{id}:{seq}", SCHEMA_VERSION, seq, namespace, entity, id, name, at,
        actor or None, from_ or None, to or None, reason or None, data or None,
    ))  # fmt: skip


def formed(facts: Facts) -> Formed:
    """Return an event, ready for the chain."""
    subject = tokens(facts.namespace, facts.entity, facts.event, facts.id)
    return (facts.entity, facts.event), subject.encode(), canonical(facts)
