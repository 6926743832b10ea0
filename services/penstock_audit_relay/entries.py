"""Outbox entries: each is a msgpack array [head, event, head, event, …], packed by lua/core/events.lua.

head = [entity, namespace, id]; event = [seq, name, at, actor, from, to, reason, data], "" for an absent field.
"""

from typing import Any, Final, NamedTuple

import msgspec

from penstock.audit import SCHEMA_VERSION, Facts, canonical, tokens
from penstock_audit_relay.counting import Told, told

_unpack: Final = msgspec.msgpack.Decoder().decode
_pack: Final = msgspec.msgpack.Encoder().encode
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError, RecursionError)


class Broken(NamedTuple):
    """An unreadable entry, or one malformed event of an entry. It becomes a dead letter."""

    why: str
    payload: bytes


class Entry(NamedTuple):
    """One outbox entry, ready for the chain. events: (`audit.tokens`, canonical form) of each event.

    told: what is counted of them.
    """

    partition: int
    id: str
    events: list[tuple[str, bytes]]
    broken: list[Broken]
    told: list[Told] = []

    @property
    def size(self) -> int:
        """Bytes of all events of the entry."""
        return sum(len(form) for _, form in self.events)


def read(partition: int, entry_id: str, blob: bytes, limit: int) -> Entry:
    """Decode the entry in `blob`. In an event of more than `limit` bytes, replace the data by a note."""
    events: list[tuple[str, bytes]] = []
    broken: list[Broken] = []
    counted: list[Told] = []
    entry = Entry(partition, entry_id, events, broken, counted)
    try:
        items = _unpack(blob)
        if type(items) is not list or len(items) % 2:
            raise ValueError("not an array of heads and events")
    except _UNREADABLE as error:
        broken.append(Broken(f"the outbox entry cannot be read: {error}", blob))
        return entry
    pairs = iter(items)
    for head, event in zip(pairs, pairs, strict=True):
        try:
            subject, form = _event(head, event)
            if len(form) > limit:
                event[7] = {"omitted": "too large for a message", "bytes": len(form)}
                subject, form = _event(head, event)
                if len(form) > limit:
                    raise ValueError("too large for a message")
            events.append((subject, form))
            if head[0] == "execution":
                _, name, at, _, _, to, reason, data = event
                if (counts := told(head[2], head[1], name, at, to, reason, data)) is not None:
                    counted.append(counts)
        except _UNREADABLE as error:
            broken.append(Broken(f"an event of the outbox entry is malformed: {error}", _pack([head, event])))
    return entry


def _event(head: Any, event: Any) -> tuple[str, bytes]:
    entity, namespace, id = head
    seq, name, at, actor, from_, to, reason, data = event
    if not type(seq) is type(at) is int:
        raise ValueError("seq and at must be integers")
    if not type(entity) is type(namespace) is type(id) is type(name) is str:
        raise ValueError("entity, namespace, id and name must be texts")
    if not type(actor) is type(from_) is type(to) is type(reason) is str:
        actor, from_, to, reason = map(str, (actor, from_, to, reason))
    facts = Facts(
        f"{id}:{seq}", SCHEMA_VERSION, seq, namespace, entity, id, name, at,
        actor or None, from_ or None, to or None, reason or None, data or None,
    )  # fmt: skip
    return tokens(namespace, entity, name, id), canonical(facts)
