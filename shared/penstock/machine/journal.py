"""Journal entries between the contract and the state machine: what a worker sends, and what a packed journal holds."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from penstock.errors import invalid
from penstock.machine.conditions import compiled
from penstock.machine.specs import NewExecution, new_execution
from penstock.messages.journal import Entry, JournalOpened, NewEntry
from penstock.messages.signals import Signal

MOST_WAITS: Final = 100
"""The most waits of one `lease.park`."""
_TIMED: Final = frozenset({"waiting", "retry"})


class NewChild(NewExecution, kw_only=True):
    """A child that is created along with its entry. parent_close: None stands for cancel."""

    parent_close: str | None = None


class Listening(Struct, omit_defaults=True):
    """A wait for signals. id: of the waitpoint, if a new one is made; condition: compiled.

    event: {topic, correlation_id} of a published event that counts as a signal.
    """

    id: str
    key: str
    condition: dict[str, Any] | None = None
    event: dict[str, str] | None = None


class EntryToStore(Struct, omit_defaults=True, kw_only=True):
    """An entry in the state machine's form. result: JSON text; error: category, reason, and perhaps a type."""

    key: str
    kind: str
    status: str
    attempt: int
    name: str | None = None
    code: str | None = None
    input_digest: str | None = None
    result: str | None = None
    error: list[str] | None = None
    until: int | None = None
    delay_ms: int | None = None
    signal: Listening | None = None
    child: NewChild | None = None

    def cost(self) -> int:
        """Return the entry's part of an operation's cost, in quarters of an ordinary operation."""
        return 1 + (12 if self.child else 0) + (8 if self.signal else 0)


class EntryStored(Struct, kw_only=True):
    """An entry as the state machine answers it."""

    n: int
    key: str
    kind: str
    status: str
    at: int
    attempt: int
    name: str = ""
    code: str | None = None
    input_digest: str | None = None
    result: str | None = None
    error: list[str] = []
    until: int | None = None
    waitpoint_id: str | None = None
    child_id: str | None = None
    ended_by: str | None = None
    signals: list[tuple[str, str, str, int, str]] = []


class EntryHead(Struct, array_like=True):
    """The first object of a packed entry (lua/execution/journal.lua). An absent field is "" or is not there.

    kind, name: True where the key is `<kind>:<name>`.
    """

    key: str
    kind: str | bool
    status: str
    at: int
    attempt: int
    name: str | bool = ""
    code: str = ""
    input_digest: str = ""
    until: int | str = ""
    park: int | str = ""
    child_id: str = ""
    waitpoint_id: str = ""
    ended_by: str = ""
    error: list[str] | str = ""
    signals: list[tuple[str, str, str, int, str]] | str = ""


class Riding(Struct):
    """A journal that comes with a task. more: it does not come, as it is too large."""

    count: int
    bytes: int
    max_entries: int
    max_bytes: int
    items: list[tuple[EntryHead, str]] = []
    version: str | None = None
    more: bool = False


def stored_form(entry: NewEntry, path: str, new_id: str, namespace: str, partitions: int) -> EntryToStore:
    """Return a worker's entry in the state machine's form, or raise `invalid_request` if its fields do not fit.

    new_id: for the waitpoint or child that it may make; namespace: of the execution's children.
    """
    _check(entry, path)
    child = None
    if entry.child is not None:
        made = new_execution(entry.child, new_id, namespace, partitions)
        close = None if entry.child.parent_close == "cancel" else entry.child.parent_close
        child = NewChild(**msgspec.structs.asdict(made), parent_close=close)
    signal = None
    if entry.signal is not None:
        awaited = entry.signal.event
        signal = Listening(
            new_id,
            entry.signal.waitpoint_key,
            compiled(entry.signal.condition),
            None if awaited is None else msgspec.structs.asdict(awaited),
        )
    error = None
    if entry.error is not None:
        error = [entry.error.category, entry.error.reason, entry.error.type or ""]
    # The request decoder made the payload JSON text, or None for null.
    result: Any = entry.raw_result
    return EntryToStore(
        key=entry.key,
        kind=entry.kind,
        status=entry.status,
        attempt=entry.attempt,
        name=entry.name or None,
        code=entry.code,
        input_digest=entry.input_digest,
        result=result,
        error=error,
        until=entry.until,
        delay_ms=entry.delay_ms,
        signal=signal,
        child=child,
    )


def _check(entry: NewEntry, path: str) -> None:
    timed = (entry.until is not None) + (entry.delay_ms is not None)
    waits = entry.signal is not None or entry.child is not None
    if timed == 2:
        raise invalid(f"{path}.delay_ms", "an entry has until or delay_ms, not both")
    if timed and entry.status not in _TIMED:
        raise invalid(f"{path}.status", "only an entry that is waiting, or to be retried, has a time")
    if waits and entry.status != "waiting":
        raise invalid(f"{path}.status", "only a waiting entry has a signal or a child")
    if entry.signal is not None and entry.child is not None:
        raise invalid(f"{path}.child", "an entry waits for signals or for a child, not both")
    if entry.child is not None and timed:
        raise invalid(f"{path}.child", "a wait for a child has no time")
    if entry.status == "waiting" and not (timed or waits):
        raise invalid(f"{path}.status", "a waiting entry says what for: until, delay_ms, signal or child")
    if entry.status == "retry" and not timed:
        raise invalid(f"{path}.status", "an entry to be retried says when: until or delay_ms")
    if entry.status == "failed" and entry.error is None:
        raise invalid(f"{path}.error", "a failed entry says why")
    if entry.kind == "state" and (entry.status != "done" or not entry.name):
        raise invalid(f"{path}.status", "a value of state has a name, and is done")


def entry_of(stored: EntryStored) -> Entry:
    """Return an entry as the contract has it. Its payloads are JSON text, as in all replies inside a service."""
    return _entry(
        n=stored.n,
        key=stored.key,
        kind=stored.kind,
        status=stored.status,
        name=stored.name,
        attempt=stored.attempt,
        at=stored.at,
        code=stored.code,
        input_digest=stored.input_digest,
        result=stored.result,
        error=stored.error,
        until=stored.until,
        waitpoint_id=stored.waitpoint_id,
        child_id=stored.child_id,
        ended_by=stored.ended_by,
        signals=stored.signals,
    )


def unpacked(n: int, head: EntryHead, result: str) -> Entry:
    """Return the entry at place n, of its two packed objects."""
    kind, name = head.kind, head.name
    if kind is True:
        kind, _, name = head.key.partition(":")
    return _entry(
        n=n,
        key=head.key,
        kind=kind,
        status=head.status,
        name=name,
        attempt=head.attempt,
        at=head.at,
        code=head.code or None,
        input_digest=head.input_digest or None,
        result=result or None,
        error=head.error,
        until=head.until or None,
        waitpoint_id=head.waitpoint_id or None,
        child_id=head.child_id or None,
        ended_by=head.ended_by or None,
        signals=head.signals,
    )


def _entry(*, result: str | None, error: Sequence[str], signals: Sequence[Any], **fields: Any) -> Entry:
    entry = Entry(**fields)
    entry.raw_result = result  # pyright: ignore[reportAttributeAccessIssue] - text, as in all replies here
    if error:
        entry.error = {"category": error[0], "reason": error[1]}
        if len(error) > 2 and error[2]:
            entry.error["type"] = error[2]
    for signal_id, name, source, at, payload in signals:
        signal = Signal(signal_id=signal_id, name=name, source=source or None, at=at)
        signal.raw_payload = payload or None  # pyright: ignore[reportAttributeAccessIssue]
        entry.signals.append(signal)
    return entry


def opened(riding: Riding) -> JournalOpened:
    """Return the journal that comes with a task."""
    return JournalOpened(
        mode="replay" if riding.count else "new",
        version=riding.version,
        count=riding.count,
        bytes=riding.bytes,
        max_entries=riding.max_entries,
        max_bytes=riding.max_bytes,
        items=[unpacked(n, head, result) for n, (head, result) in enumerate(riding.items, 1)],
        cursor="0" if riding.more else None,
    )


def page(reply: list[Any], after: int) -> JournalOpened:
    """Return a page of a journal, of the reply of `JournalOpen` or `JournalRead`."""
    version, count, size, max_entries, max_bytes, last, more, *objects = reply
    pairs = zip(objects[::2], objects[1::2], strict=True)
    return JournalOpened(
        mode="replay" if count else "new",
        version=version or None,
        count=count,
        bytes=size,
        max_entries=max_entries,
        max_bytes=max_bytes,
        items=[
            unpacked(n, msgspec.convert(head, EntryHead), result)
            for n, (head, result) in enumerate(pairs, after + 1)
        ],
        cursor=str(last) if more else None,
    )
