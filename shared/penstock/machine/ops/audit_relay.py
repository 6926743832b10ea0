"""The audit-relay's operations: read a partition's outbox in order, and trim it; write statistics down."""

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
    """Return the entries after entry id `after` ('0': from the start), up to `limit` entries or about `bytes` bytes.

    runs: entries may have runs of events (penstock_audit_relay/entries.py), which relays of release 0.1 do not know.
    """

    after: str
    limit: int
    bytes: int
    runs: bool = False


class Trimmed(Waiting, kw_only=True):
    """unknown: nothing was trimmed, since this Valkey does not know the entry (see `Taken.behind`)."""

    trimmed: int
    unknown: bool = False


@op("audit_relay")
class Ack(Op[Trimmed], kw_only=True):
    """Trim the outbox up to and including an entry that is now in the audit stream."""

    upto: str


class FactsFound(Struct):
    """items: (lane, kind, ready_at or 0, started_at or 0) of each execution, or False where there is none."""

    items: list[tuple[str, str, int, int] | bool]


@op("audit_relay", weight=4)
class Facts(Op[FactsFound], kw_only=True):
    """Return what events do not tell of these executions, in the same order."""

    ids: list[str]


class Written(Struct):
    """Texts, in the order of what was asked for; False where there is none."""

    minutes: list[str | bool]
    groups: list[str | bool]


@op("audit_relay", weight=4)
class StatisticsRead(Op[Written], kw_only=True):
    """Return what is written so far. minutes: (lane, minute) each; groups: ids."""

    minutes: list[tuple[str, int]]
    groups: list[str]


@op("audit_relay", weight=12)
class StatisticsWrite(Op[None], kw_only=True):
    """Write statistics down. minutes: (lane, minute, text) each; groups: (id, text, time of the last failure) each."""

    minutes: list[tuple[str, int, str]]
    groups: list[tuple[str, str, int]]
