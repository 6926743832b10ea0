"""Runs a handler over a stored journal, without servers: what would this code do with that execution?

Steps, waits and children return their stored results. No step's function is run, and nothing is written. Where the
handler asks for something that the journal does not have, it stops.
"""

import asyncio
import contextlib
import copy
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from penstock.messages.common import Record
from penstock.messages.journal import Entry, JournalOpened, NewEntry
from penstock.messages.leases import TaskMessage
from penstock.sdk.requester import Extras
from penstock.states import TERMINAL
from penstock.worker._hooks import Hooks
from penstock.worker._invoke import Handler
from penstock.worker._leases import Lease, LeaseRenewer
from penstock.worker._runner import Runner
from penstock.worker._task import Task
from penstock.worker.durable.errors import TaskSuspended
from penstock.worker.durable.offline import Ended, Offline
from penstock.worker.durable.run import DurableOptions, DurableRun
from penstock.worker.durable.waits import Waits

PATIENCE_S: Final = 10.0
"""How long a handler may take: its code between the calls runs as it always does."""
FROM_OUTSIDE: Final = frozenset(
    {
        "budget_exceeded",
        "deadline_exceeded",
        "journal_full",
        "lease_expired",
        "no_handler",
        "suspension_timeout",
        "timeout",
    }
)
"""Categories of failures that are not the handler's own: it had come to no end, and may go on from any place."""


class Replay(msgspec.Struct, kw_only=True):
    """What a handler makes of a stored journal. Lists are of keys.

    orphans: entries that it does not ask for. drift: steps whose function or arguments have changed. new: calls that
    the journal does not have, although it goes on behind them or the execution has ended. unreached: entries that
    were not asked for because the handler stopped before (at something new, or at a problem).
    goes_on: where an execution that has not ended goes on; that is no difference.
    outcome: in words, how the handler ends otherwise than the execution has. problem: why the replay ended early.
    skipped: why there was none, where this code would not get the execution.
    """

    execution_id: str
    kind: str
    state: str
    orphans: list[str] = []
    drift: list[str] = []
    new: list[str] = []
    unreached: list[str] = []
    goes_on: list[str] = []
    outcome: str | None = None
    problem: str | None = None
    skipped: str | None = None

    @property
    def differs(self) -> bool:
        """Whether this code does not do with the execution what the code before it did."""
        return bool(self.orphans or self.drift or self.new or self.outcome or self.problem)

    def __str__(self) -> str:
        told = [
            f"{name} {', '.join(keys)}"
            for name, keys in (
                ("new:", self.new),
                ("not asked for:", self.orphans),
                ("not reached:", self.unreached),
                ("changed:", self.drift),
            )
            if keys
        ]
        told += [text for text in (self.outcome, self.problem, self.skipped) if text]
        if not told:
            told = [f"goes on at {', '.join(self.goes_on)}" if self.goes_on else "the same"]
        return "; ".join(told)


async def replay(
    handler: Handler,
    record: Record,
    journal: Iterable[Entry],
    *,
    context: Any = None,
    hooks: Hooks | None = None,
    patience: float = PATIENCE_S,
) -> Replay:
    """Run a handler over the journal of an execution. `context`: what it finds in `task.context`."""
    offline = Offline(record)
    leases = LeaseRenewer(offline, PATIENCE_S)
    runner = _Runner(offline, leases, _for_replay(handler), record, hooks or Hooks(), context)
    lease = leases.add(_message(record, list(journal)))
    lease.expires = float("inf")
    found = Replay(execution_id=record.execution_id, kind=record.kind, state=record.state)
    runner.start(lease)
    assert lease.runner is not None
    running = lease.runner
    done, _ = await asyncio.wait({running}, timeout=patience)
    if not done:
        found.problem = f"the handler has come to no rest within {patience:g} s"
        lease.lose("the replay took too long")
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError, TaskSuspended):
        await running
    if offline.refused and found.problem is None:
        found.problem = (
            f"it calls {offline.refused}, which has no stored answer: make that call inside a step"
        )
    run = None if runner.made is None else runner.made.replayed
    assert run is not None, "a journal was given, so it was opened"
    _compare(found, record, run, offline.ended)
    return found


def _compare(found: Replay, record: Record, run: "ReplayRun", ended: Ended | None) -> None:
    new = [key for key, is_new in run.waits.stopped.items() if is_new]
    unasked = run.journal.orphans()
    found.drift = run.journal.drift
    found.new = run.early + (new if run.journal.closed or unasked else [])
    if new or found.problem:
        found.unreached = unasked
    else:
        found.orphans = unasked
    if not (found.new or found.problem or (ended and ended.state != "suspended")):
        found.goes_on = list(run.waits.stopped) or ([] if ended is None else ["a wait that is not journaled"])
    if ended and ended.state == "failed" and unasked:  # it would have failed before it came so far
        found.outcome = f"this code {_told(ended, [])}"
    if not run.journal.closed or found.problem or (found.new and ended is None):
        return
    if not _same_end(record, ended):
        found.outcome = f"{_end_of(record)}; this code {_told(ended, list(run.waits.stopped))}"


def _same_end(record: Record, ended: Ended | None) -> bool:
    if ended is None or ended.state != record.state:
        return False
    if ended.state == "failed":
        return ended.category == (record.failure or {}).get("category")
    return ended.result == record.result


def ended_by_itself(record: Record) -> bool:
    """Return whether the handler has brought an execution to its end, rather than an operator or a time limit."""
    if record.state != "failed":
        return record.state == "completed"
    return (record.failure or {}).get("category") not in FROM_OUTSIDE


def _end_of(record: Record) -> str:
    failure = record.failure or {}
    if record.state == "failed":
        return f"it failed ({failure.get('category')})"
    return f"it completed with {_short(record.result)}"


def _told(ended: Ended | None, stopped: list[str]) -> str:
    if ended is None or ended.state == "suspended":
        return f"waits at {', '.join(stopped) or 'a wait that is not journaled'}"
    if ended.state == "failed":
        return f"fails ({ended.category}): {ended.reason}"
    return f"completes with {_short(ended.result)}" if ended.state == "completed" else "cancels it"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else text[:199] + "…"


def _message(record: Record, entries: list[Entry]) -> TaskMessage:
    return TaskMessage(
        execution_id=record.execution_id,
        kind=record.kind,
        lane=record.lane,
        raw_input=record.raw_input,
        attempt_index=max(1, record.attempt_index),
        attempt_id=record.attempt_id or "",
        lease_id="",
        lease_epoch=0,
        lease_expires_at=0,
        resumed=bool(entries),
        tags=record.tags,
        deadline_at=record.deadline_at,
        traceparent=record.traceparent,
        journal=JournalOpened(
            mode="replay" if entries else "new",
            version=record.version,
            count=len(entries),
            items=[copy.copy(each) for each in entries],  # decoded values are kept in an entry
        ),
    )


def _for_replay(handler: Handler) -> Handler:
    """Return a copy of a handler that waits for nothing."""
    handler, options = copy.copy(handler), copy.copy(handler.options)
    options.keep_warm = 0.0
    handler.options = options
    return handler


class StoredWaits(Waits):
    """Waits that never end. When all branches of the handler stand in one, the handler is stopped."""

    stopped: dict[str, bool]
    """Keys at which branches stand, and whether the journal does not have them."""

    async def wait(self, key: str, new: NewEntry | None, stored: Entry | None = None) -> Entry:
        return await self.stop(key, is_new=False)

    async def stop(self, key: str, *, is_new: bool) -> Entry:
        """Wait until the handler is stopped: raises `TaskSuspended`."""
        self.stopped[key] = is_new
        kind = key.partition(":")[0]
        try:
            return await super().wait(key, NewEntry(key=key, kind=kind, status="waiting"))
        except asyncio.CancelledError:  # the branch was given up for another one
            del self.stopped[key]
            raise


class ReplayRun(DurableRun):
    """A run that asks the journal, and stops where that has nothing."""

    waits_type = StoredWaits
    waits: StoredWaits

    def __init__(self, *parts: Any, closed: bool) -> None:
        super().__init__(*parts)
        self.waits.stopped = {}
        self.journal.closed = closed
        self.early: list[str] = []
        """Markers and races that the journal does not have, met before its end. They do not stop the handler."""

    async def ask(self, key: str, *, undo: bool = False) -> Entry | None:
        entry = await super().ask(key, undo=undo)
        if entry is None and not key.startswith("first:"):
            await self.waits.stop(key, is_new=True)
        return entry

    async def append(self, entry: NewEntry) -> Any:
        if entry.kind == "first":
            self._note(entry.key)
        return await super().append(entry)

    def mark(self, key: str, kind: str, name: str) -> None:
        self._note(key)
        super().mark(key, kind, name)

    def _note(self, key: str) -> None:
        if not self.journal.at_frontier:
            self.early.append(key)


class _Task(Task):
    """A task whose durable calls are replayed. `closed`: whether the execution has ended by itself."""

    __slots__ = ("closed", "replayed")

    closed: bool
    replayed: ReplayRun | None

    def _durable_run(self) -> DurableRun:
        if self._durable is None:
            options = self._options or DurableOptions()
            parts = (self._requester, self._calls, self._leases, self._lease, options)
            self._durable = self.replayed = ReplayRun(*parts, closed=self.closed)
        return self._durable


class _Runner(Runner):
    """A runner of one handler for one execution."""

    def __init__(
        self,
        offline: Offline,
        leases: LeaseRenewer,
        handler: Handler,
        record: Record,
        hooks: Hooks,
        context: Any,
    ) -> None:
        super().__init__(
            offline, leases, {record.kind: handler}, 1, lambda: None, hooks, context, Extras(None, None)
        )
        self.made: _Task | None = None
        self._closed = record.state in TERMINAL and ended_by_itself(record)

    def task(self, lease: Lease) -> Task:
        options = self._handlers[lease.message.kind].options
        self.made = task = _Task(self._requester, self._leases, lease, self._context, options)
        task.closed, task.replayed = self._closed, None
        return task
