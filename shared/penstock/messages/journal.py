"""Messages about journals: what a durable function has done, and what it waits for (docs/contract.md)."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, UnsetType

from penstock.messages.common import (
    DurationMs,
    Fence,
    Id,
    IdempotencyKey,
    Instant,
    Kind,
    Limit,
    PlaceCursor,
    Reply,
    Request,
    Text,
    Token,
    Traceparent,
    decoded,
    raw,
)
from penstock.messages.executions import ExecutionCreated, ExecutionSpec
from penstock.messages.signals import Condition, Signal

EntryKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=512,
        pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$",
        description="names an entry within its journal",
    ),
]
EntryName = Annotated[str, Meta(max_length=256)]
Digest = Annotated[str, Meta(max_length=64)]
Version = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}(?!\n)$", description="of a handler's code: A-Z a-z 0-9 _ . -")
]
EntryStatus = Literal["started", "waiting", "retry", "done", "failed", "canceled"]


class EntryError(Request, kw_only=True):
    """Why an entry has failed. type: the name of the exception's class, if the worker wants it back."""

    category: Token = "error"
    reason: Text = ""
    type: EntryName | None = None


class AwaitedEvent(Request, kw_only=True):
    """An event that is published on `<root>.event.<topic>` with this correlation id."""

    topic: Kind
    correlation_id: Annotated[str, Meta(min_length=1, max_length=256)]


class SignalWait(Request, kw_only=True):
    """A wait for signals: on the pending waitpoint of this key, if there is one, else on a new one.

    condition: as in `lease.suspend`; None stands for any signal. event: one that is published, also before, counts as a
    signal with its topic as name and its body as payload.
    """

    waitpoint_key: Token = "default"
    condition: Condition | None = None
    event: AwaitedEvent | None = None


class ChildSpec(ExecutionSpec, kw_only=True):
    """A child execution that is created together with its entry. parent_close: as in `execution.create`."""

    parent_close: Literal["cancel", "let_run"] = "cancel"


class NewEntry(Request, kw_only=True):
    """An entry to be stored under its key.

    status: started (a step begins), done, failed (with `error`), canceled; waiting: for a time (`until`, or `delay_ms`
    from now), for signals (`signal`, with a time: the timeout) or until a child ends (`child`); retry: a step that has
    failed (`error`) and is tried again at a time.
    attempt: of a step, how often it was tried; of an entry of kind `state`, which change of the value this is.
    code, input_digest: of a step's function and arguments; stored as they are.
    """

    key: EntryKey
    kind: Token
    status: EntryStatus
    name: EntryName = ""
    attempt: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1
    code: Digest | None = None
    input_digest: Digest | None = None
    raw_result: Raw = raw("result")
    error: EntryError | None = None
    until: Instant | None = None
    delay_ms: DurationMs | None = None
    signal: SignalWait | None = None
    child: ChildSpec | None = None


class Entry(Reply, kw_only=True, dict=True, omit_defaults=True):
    """An entry as it is stored. n: its place in the journal, from 1; at: when it got this status.

    ended_by: what ended a wait: signal, time, child, or operator (`execution.resume`, `.run_now`).
    """

    n: int
    key: str
    kind: str
    status: EntryStatus
    name: str = ""
    attempt: int = 1
    at: int = 0
    code: str | None = None
    input_digest: str | None = None
    raw_result: Raw = raw("result")
    error: dict[str, Any] | None = None
    until: int | None = None
    waitpoint_id: str | None = None
    child_id: str | None = None
    ended_by: str | None = None
    signals: list[Signal] = []

    result = decoded("result")


class JournalOpened(Reply, kw_only=True):
    """A journal, or a page of it. mode: `new` when it has no entry; version: the one that was recorded, if any."""

    mode: Literal["new", "replay"] = "new"
    version: str | None = None
    count: int = 0
    bytes: int = 0
    max_entries: int = 0
    max_bytes: int = 0
    items: list[Entry] = []
    cursor: str | None = None


class JournalOpen(Fence, kw_only=True):
    """Read the journal of the execution that the caller holds.

    version: recorded, unless one is recorded already. pin: from then on only workers that take `<kind>@<version>` (or
    all kinds) get the execution.
    """

    version: Version | None = None
    pin: bool = False
    cursor: PlaceCursor | None = None
    limit: Limit = 1000


class JournalAppend(Fence, kw_only=True):
    """Store entries, all of them or, after an error, none. version, pin: as in `journal.open`."""

    entries: Annotated[list[NewEntry], Meta(min_length=1, max_length=100)]
    version: Version | None = None
    pin: bool = False


class Appended(Reply, kw_only=True, omit_defaults=True):
    """What became of one entry. outcome: stored; or exists: the one that was stored before stays.

    entry: what is stored now, given with `exists`, and for an entry that waits.
    """

    key: str
    outcome: Literal["stored", "exists"]
    entry: Entry | None = None


class JournalAppended(Reply, kw_only=True):
    """`results`: in the order of the request's entries. count, bytes: of the whole journal."""

    results: list[Appended]
    count: int
    bytes: int


class JournalRead(Request, kw_only=True):
    """Read a journal in order, without a lease."""

    execution_id: Id
    cursor: PlaceCursor | None = None
    limit: Limit = 1000


class Hold(Request, kw_only=True):
    """Why an operator has to look: a code such as `journal_mismatch`, the entry's key, and what to do in words."""

    code: Token
    key: EntryKey | None = None
    message: Text = ""


class LeasePark(Fence, kw_only=True):
    """Store entries and suspend the execution until waits have ended, in one step.

    The waits are the entries of status waiting or retry in `entries`, and those of `keys`, which are stored already.
    mode: how many of them must have ended. hold: instead, suspend for an operator (`execution.resume` goes on).
    """

    entries: Annotated[list[NewEntry], Meta(max_length=100)] = []
    keys: Annotated[list[EntryKey], Meta(max_length=100)] = []
    mode: Literal["any", "all"] = "any"
    hold: Hold | None = None
    version: Version | None = None
    pin: bool = False


class Parked(Reply, kw_only=True, omit_defaults=True):
    """outcome: suspended; already_satisfied (the worker keeps the lease); canceled, if cancellation was requested.

    results: of `entries`, and items: the waits that have ended, both with already_satisfied only. wake_at: the next
    time at which a wait ends by itself.
    """

    outcome: Literal["suspended", "already_satisfied", "canceled"]
    wake_at: int | None = None
    results: list[Appended] = []
    items: list[Entry] = []


class JournalNotes(Request, kw_only=True):
    """What a worker noticed about a journal: keys that the code did not ask for, and keys whose step has changed."""

    orphans: Annotated[list[EntryKey], Meta(max_length=100)] = []
    drift: Annotated[list[EntryKey], Meta(max_length=100)] = []


class Continues(Request, kw_only=True):
    """The input of the execution that goes on in place of this one (`lease.complete`)."""

    raw_input: Raw = raw("input")


class Edit(Request, kw_only=True):
    """Another result for a copied entry; it is `done` with it."""

    key: EntryKey
    raw_result: Raw = raw("result")


class ExecutionFork(Request, kw_only=True):
    """Start a new execution with a copy of a journal: up to and with `after_key`, or up to `before_key`, or all of it.

    Entries that had not ended, and state, are not copied. input: replaces the old input, if given.
    """

    execution_id: Id
    after_key: EntryKey | None = None
    before_key: EntryKey | None = None
    input: Raw | UnsetType = UNSET
    edits: Annotated[list[Edit], Meta(max_length=100)] = []
    idempotency_key: IdempotencyKey | None = None
    traceparent: Traceparent | None = None


class Forked(ExecutionCreated, kw_only=True):
    """entries: how many were copied."""

    forked_from: str = ""
    entries: int = 0


class ExecutionQuery(Request, kw_only=True):
    """Read the state of a durable function, without a worker. names: only these; unknown ones are left out."""

    execution_id: Id
    names: Annotated[list[EntryName], Meta(max_length=100)] = []


class StateValue(Reply, kw_only=True, dict=True):
    """One value of a state, and when it was set."""

    name: str
    raw_value: Raw = raw("value")
    at: int

    value = decoded("value")


class Queried(Reply, kw_only=True):
    execution_id: str
    state: str
    items: list[StateValue] = []


class ExecutionVersions(Request, kw_only=True):
    """Count executions of a kind that have not ended, by the version that was recorded for them."""

    kind: Kind


class VersionCount(Reply, kw_only=True):
    """open: executions that have not ended; oldest: the first of them."""

    version: str
    open: int
    oldest: str | None = None
