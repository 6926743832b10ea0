"""A run of a handler that has only its stored journal: its task, its waits, and the runner that starts it."""

import asyncio
import copy
from typing import Any, Final

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
from penstock.worker.durable.offline import Offline
from penstock.worker.durable.run import DurableOptions, DurableRun
from penstock.worker.durable.waits import Waits

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


class ReplayTask(Task):
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


class ReplayRunner(Runner):
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
            offline,
            leases,
            {record.kind: _for_replay(handler)},
            1,
            lambda: None,
            hooks,
            context,
            Extras(None, None),
        )
        self.made: ReplayTask | None = None
        self._closed = record.state in TERMINAL and ended_by_itself(record)

    def task(self, lease: Lease) -> Task:
        options = self._handlers[lease.message.kind].options
        self.made = task = ReplayTask(self._requester, self._leases, lease, self._context, options)
        task.closed, task.replayed = self._closed, None
        return task


def ended_by_itself(record: Record) -> bool:
    """Return whether the handler has brought an execution to its end, rather than an operator or a time limit."""
    if record.state != "failed":
        return record.state == "completed"
    return (record.failure or {}).get("category") not in FROM_OUTSIDE


def task_message(record: Record, entries: list[Entry]) -> TaskMessage:
    """Return the task of an execution as a scheduler would hand it out, with the whole journal and without a lease."""
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
