"""The chain, and the bytes of an atomic batch.

One batch is one `bytes` of HPUB commands, written in one go: a call of nats-py's `publish` per event would
cost more than all the rest. Headers as in NATS ADR-50.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from penstock.audit import CURSOR_HEADER, seal
from penstock_audit_relay.entries import Entry
from penstock_audit_relay.position import Position

MAX_EVENTS: Final = 1000
"""nats-server's limit for one atomic batch."""
MAX_BYTES: Final = 2 * 1024 * 1024
"""Of events in one batch, so that writing one never takes long."""


class Batch(Struct, gc=False):
    """Events that enter the stream together, or not at all."""

    token: str
    wire: bytes
    events: int
    last_seq: int
    """The stream's last sequence once it is in."""
    cursor: dict[int, str]
    """Up to where its outbox entries reach, per partition of these entries."""


class Chain:
    """Grows batch by batch from a position. It runs ahead of the stream: if a batch fails, throw it away."""

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
        """The next batch. Events that the stream has already (`Position.stored`) are left out."""
        cursor: dict[int, str] = {}
        events: list[tuple[str, bytes]] = []
        for entry in entries:
            cursor[entry.partition] = entry.id
            if self._stored:
                events += [event for event in entry.events if event[1] not in self._stored]
            else:
                events += entry.events
        self._cursor |= cursor
        self._count += 1
        token = f"{self._session}-{self._count}"
        wire = self._commands(token, events) if events else b""
        self._seq += len(events)
        return Batch(token, wire, len(events), self._seq, cursor)

    def _commands(self, token: str, events: list[tuple[str, bytes]]) -> bytes:
        prefix, chained, last = self._prefix, self._hash, len(events)
        common = f"NATS/1.0\r\nNats-Batch-Id:{token}\r\nNats-Batch-Sequence:".encode()
        parts: list[bytes] = []
        for number, (subject, form) in enumerate(events, 1):
            body, chained = seal(form, chained)
            head = b"%b%d\r\n" % (common, number)
            reply = b""
            if number == 1:
                head += b"Nats-Expected-Last-Sequence:%d\r\n" % self._seq
            if number == last:
                head += b"Nats-Batch-Commit:1\r\n%b\r\n" % _cursor_header(self._cursor)
                reply = f"{self._inbox}.{token} ".encode()
            size = len(head) + 2
            parts.append(
                b"HPUB %b%b %b%d %d\r\n%b\r\n%b\r\n"
                % (prefix, subject.encode(), reply, size, size + len(body), head, body)
            )
        self._hash = chained
        return b"".join(parts)


def _cursor_header(cursor: Mapping[int, str]) -> bytes:
    return f"{CURSOR_HEADER}:{json.dumps(cursor, separators=(',', ':'))}".encode()
