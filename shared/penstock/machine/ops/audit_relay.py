"""The audit-relay's operations: read a partition's outbox in order, and trim it."""

from msgspec import Struct

from penstock.machine.op import Op, op


class Waiting(Struct, kw_only=True):
    """The number of entries in the outbox, and the age of the oldest (milliseconds)."""

    waiting: int
    age_ms: int


class Taken(Waiting, kw_only=True):
    """entries: (entry id, packed events) each. more: there may be further entries.

    behind: set when this Valkey does not know the entry `after`, because it has lost its newest changes: the last entry
    that it had trimmed (`0-0`: none). now: then Valkey's clock (ms).
    """

    entries: list[tuple[str, bytes]] = []
    more: bool
    behind: str | None = None
    now: int = 0


@op("audit_relay")
class Take(Op[Taken], kw_only=True):
    """Return the entries after entry id `after` ('0': from the start), up to `limit` entries or about `bytes` bytes."""

    after: str
    limit: int
    bytes: int


class Trimmed(Waiting, kw_only=True):
    """unknown: nothing was trimmed, since this Valkey does not know the entry (see `Taken.behind`)."""

    trimmed: int
    unknown: bool = False


@op("audit_relay")
class Ack(Op[Trimmed], kw_only=True):
    """Trim the outbox up to and including an entry that is now in the audit stream."""

    upto: str
