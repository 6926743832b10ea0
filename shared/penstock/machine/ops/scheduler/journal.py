"""Operations on durable functions: fork one, read its state, count them by version."""

from msgspec import Struct, field

from penstock.machine.op import Op, op
from penstock.messages.journal import Forked, Queried, VersionCount
from penstock.store.caller import MOST


class NewResult(Struct, omit_defaults=True):
    """Another result (JSON text, None for null) for an entry that a fork copies."""

    key: str
    result: str | None = None


class CopiedJournal(Struct, omit_defaults=True):
    """A journal without its entries. undo: it has compensations."""

    n: int
    bytes: int
    undo: bool = False


class Copied(Struct):
    """What has been copied so far, of the entries up to `place` in the old journal.

    edited: keys of this part that got another result. there: the fork exists already.
    """

    place: int = 0
    journal: CopiedJournal = field(default_factory=lambda: CopiedJournal(0, 0))
    more: bool = True
    edited: list[str] = []
    there: bool = False


@op("scheduler", by="execution_id", weight=MOST)
class CopyJournal(Op[Copied], kw_only=True):
    """Copy a part of a journal for a fork that is still to be created."""

    id: str
    execution_id: str
    after_key: str | None = None
    before_key: str | None = None
    edits: list[NewResult]
    place: int
    journal: CopiedJournal


@op("scheduler", by="execution_id")
class Fork(Op[Forked], kw_only=True):
    """Create an execution with a copied journal. override: `input` replaces the old input (None is null)."""

    id: str
    again: bool = False
    execution_id: str
    override: bool = False
    input: str | None = None
    journal: CopiedJournal
    traceparent: str | None = None


@op("scheduler", by="execution_id", weight=8)
class Query(Op[Queried], kw_only=True):
    """Return the values of a function's state, all of them without names."""

    execution_id: str
    names: list[str]


class VersionsHere(Struct):
    items: list[VersionCount] = []


@op("scheduler", weight=24)
class Versions(Op[VersionsHere], kw_only=True):
    """Count the executions of a kind that have not ended in one partition, by version."""

    kind: str
