"""The audit-relay's operations: the outbox, handed out in order, and trimmed."""

from msgspec import Struct

from penstock.machine.op import Op, op


class Waiting(Struct, kw_only=True):
    """Entries in the outbox, and how long the oldest has waited (milliseconds)."""

    waiting: int
    age_ms: int


class Taken(Waiting, kw_only=True):
    """(entry id, packed events) each. more: there may be further ones."""

    entries: list[tuple[str, bytes]]
    more: bool


@op("audit_relay")
class Take(Op[Taken], kw_only=True):
    """Entries after a position ('0' for the start), until so many, or so many bytes, are gathered."""

    after: str
    limit: int
    bytes: int


class Trimmed(Waiting, kw_only=True):
    trimmed: int


@op("audit_relay")
class Ack(Op[Trimmed], kw_only=True):
    """Trims the outbox up to an entry, which is in the audit stream now."""

    upto: str
