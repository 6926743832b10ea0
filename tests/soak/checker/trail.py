"""The audit trail: its events, its hash chain, and the numbers of each entity's events.

A stored event is one JSON object whose last two fields are `prev_hash` and `hash`. `hash` is the hex SHA-256 of
prev_hash (64 ASCII characters) and the object without these two fields, byte for byte; the first prev_hash is 64 zeros.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from soak.checker.findings import Findings

GENESIS = b"0" * 64
MIDDLE = b',"prev_hash":"'
TAIL = len(MIDDLE) + 64 + len(b'","hash":"') + 64 + len(b'"}')


@dataclass(frozen=True, slots=True)
class Event:
    """An audit event. place: its sequence in the stream; before, after: the state that a move leaves and enters."""

    place: int
    entity: str
    id: str
    seq: int
    name: str
    at: int
    actor: str
    before: str | None
    after: str | None
    reason: str | None
    data: dict[str, Any]


def events(messages: Iterable[tuple[int, bytes]], findings: Findings) -> list[Event]:
    """Return the events in the stream's order. Report breaks of the chain and gaps in the entities' numbers."""
    found: list[Event] = []
    last_hash, last_place = GENESIS, 0
    numbers: dict[tuple[str, str], int] = {}
    for place, body in messages:
        if place != last_place + 1:
            findings.report("chain_broken", "stream", f"message {place} follows {last_place}")
        last_place = place
        form, previous, digest = body[:-TAIL] + b"}", body[-TAIL:][len(MIDDLE) :][:64], body[-66:-2]
        if previous != last_hash:
            findings.report("chain_broken", "stream", f"{place}: prev_hash is not the hash before it")
        if hashlib.sha256(previous + form).hexdigest().encode() != digest:
            findings.report("chain_broken", "stream", f"{place}: the hash does not fit the event")
        last_hash = digest
        event = _read(place, json.loads(body))
        found.append(event)
        key = event.entity, event.id
        expected = numbers.get(key, 0) + 1
        if event.seq > expected:
            findings.report("event_missing", event.id, f"event {event.seq} comes where {expected} should")
        elif event.seq < expected:
            findings.report("event_repeated", event.id, f"event {event.seq} comes where {expected} should")
        numbers[key] = max(event.seq, expected - 1)
    findings.counts["events"] = len(found)
    findings.counts["entities"] = len(numbers)
    return found


def _read(place: int, told: dict[str, Any]) -> Event:
    return Event(
        place,
        told["entity"],
        told["id"],
        told["seq"],
        told["event"],
        told["at"],
        told["actor"] or "",
        told["from"] or None,
        told["to"] or None,
        told["reason"] or None,
        told["data"] or {},
    )
