"""The hash chain, and the wire bytes of an atomic batch.

A batch is one `bytes` object of HPUB commands, written at once: calling nats-py's `publish` for each event would
cost more than all other work. The headers are those of NATS ADR-50.
"""

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from penstock.audit import CURSOR_HEADER, seal
from penstock_audit_relay.counting import Told
from penstock_audit_relay.entries import Entry, Formed
from penstock_audit_relay.position import Position

MAX_EVENTS: Final = 1000
"""nats-server's limit for one atomic batch."""
MAX_BYTES: Final = 2 * 1024 * 1024
"""Most bytes of events in one batch, so that writing a batch never takes long."""


class Batch(Struct, gc=False):
    """An atomic batch: all its events enter the stream, or none."""

    token: str
    wire: bytes
    events: int
    kinds: dict[tuple[str, str], int]
    """How many of them are of each (entity, event)."""
    last_seq: int
    """The stream's last sequence after the batch is stored."""
    cursor: dict[int, str]
    """The last outbox entry id in the batch, for each partition that has entries in it."""
    told: list[Told]
    """What is counted of its events."""


class Chain:
    """Seals one batch after the other from a position. It runs ahead of the stream: discard it if a batch fails."""

    def __init__(self, position: Position, root: str, inbox: str) -> None:
        self._prefix = f"{root}.audit.".encode()
        self._inbox = inbox
        self._seq = position.seq
        self._hash = position.hash
        self._cursor = dict(position.cursor)
        self._stored = position.stored
        self._session = secrets.token_hex(6)
        self._count = 0

    def seal(self, entries: Iterable[Entry]) -> Batch:
        """Make the next batch. Leave out events that the stream already has (`Position.stored`)."""
        cursor: dict[int, str] = {}
        events: list[Formed] = []
        told: list[Told] = []
        for entry in entries:
            told += entry.told
            cursor[entry.partition] = entry.id
            if self._stored:
                events += [event for event in entry.events if event[2] not in self._stored]
            else:
                events += entry.events
        self._cursor |= cursor
        self._count += 1
        token = f"{self._session}-{self._count}"
        wire = self._commands(token, events) if events else b""
        self._seq += len(events)
        kinds = Counter([kind for kind, _, _ in events])
        return Batch(token, wire, len(events), kinds, self._seq, cursor, told)

    def _commands(self, token: str, events: list[Formed]) -> bytes:
        """Return one HPUB command for each event: the first with the expected sequence, the last with the commit."""
        prefix, chained, last = self._prefix, self._hash, len(events)
        common = f"NATS/1.0\r\nNats-Batch-Id:{token}\r\nNats-Batch-Sequence:".encode()
        parts: list[bytes] = []
        reply = b""
        for number, (_, subject, form) in enumerate(events, 1):
            body, chained = seal(form, chained)
            head = b"%b%d\r\n\r\n" % (common, number)
            if number == 1 or number == last:
                head = head[:-2]
                if number == 1:
                    head += b"Nats-Expected-Last-Sequence:%d\r\n" % self._seq
                if number == last:
                    head += b"Nats-Batch-Commit:1\r\n%b\r\n" % _cursor_header(self._cursor)
                    reply = f"{self._inbox}.{token} ".encode()
                head += b"\r\n"
            size = len(head)
            parts.append(
                b"HPUB %b%b %b%d %d\r\n%b%b\r\n"
                % (prefix, subject, reply, size, size + len(body), head, body)
            )
        self._hash = chained
        return b"".join(parts)


def _cursor_header(cursor: Mapping[int, str]) -> bytes:
    return f"{CURSOR_HEADER}:{json.dumps(cursor, separators=(',', ':'))}".encode()
