"""Messages of the lease-keeper: leases, attempts and outcomes."""

from typing import Annotated, Any

from msgspec import Meta, Raw

from penstock.messages.common import (
    DurationMs,
    Fence,
    Id,
    Instant,
    LeaseTtlMs,
    Reply,
    Request,
    StateReply,
    Text,
    Token,
    decoded,
    raw,
)
from penstock.messages.executions import ExecutionSpec
from penstock.messages.journal import Continues, JournalNotes, JournalOpened


class Claim(Request, kw_only=True):
    """Turn a grant into a lease. `start`: also start the task, in the same step."""

    grant_id: Token
    execution_id: Id
    worker_id: Token
    lease_ttl_ms: LeaseTtlMs = 30_000
    start: bool = False


class Ending(Reply, kw_only=True):
    """How an execution ends once its compensations have run: as canceled, or as failed."""

    category: str
    reason: str = ""


class TaskMessage(Reply, kw_only=True, dict=True):
    """A leased execution, in the form that its worker gets.

    journal: of a durable function that has entries. Its cursor is "0" where it is too large for this message: then read
    it with `journal.open`.
    ending: the execution ends. Run nothing but its compensations, then report a failure that no attempt follows.
    """

    execution_id: str
    kind: str
    lane: str
    raw_input: Raw = raw("input")
    attempt_index: int
    attempt_id: str
    lease_id: str
    lease_epoch: int
    lease_expires_at: int
    resumed: bool = False
    tags: dict[str, str] = {}
    deadline_at: int | None = None
    traceparent: str | None = None
    journal: JournalOpened | None = None
    ending: Ending | None = None

    input = decoded("input")


class Tasks(Reply, kw_only=True):
    """The reply of `work.next`: tasks, or none if there was no work in time."""

    tasks: list[TaskMessage] = []


class LeaseStart(Fence, kw_only=True):
    pass


class LeaseRenew(Fence, kw_only=True):
    lease_ttl_ms: LeaseTtlMs | None = None


class Renewed(Reply, kw_only=True):
    expires_at: int
    cancel_requested: bool


class LeaseStalled(Fence, kw_only=True):
    """Report that the worker's event loop has not turned for `blocked_ms`, so that nobody can renew the lease.

    It does not renew the lease. Should the lease run out, its event `reclaimed` tells of it.
    """

    blocked_ms: DurationMs


class LeaseComplete(Fence, kw_only=True):
    """End the execution as completed.

    children: executions that are created in the same step. continues: the next execution of an endless function is
    created in the same step, like this one. journal: what is told in the event's data.
    """

    result: Raw = raw()
    children: Annotated[list[ExecutionSpec], Meta(max_length=1000)] = []
    continues: Continues | None = None
    journal: JournalNotes | None = None


class Completed(StateReply, kw_only=True, omit_defaults=True):
    """`children`: the ids of the child executions created by the completion; `continued_by`: of the next execution."""

    children: list[str] = []
    continued_by: str | None = None


class LeaseCancel(Fence, kw_only=True):
    """End the execution as canceled: the worker gives the work up for good."""

    reason: Text | None = None


class LeaseDelay(Fence, kw_only=True):
    """Suspend the execution until a time; a time that has passed resumes the execution at once."""

    until: Instant


class LeaseAwaitChildren(Fence, kw_only=True):
    """Suspend the execution until every child is terminal; if all are already, it resumes at once."""


class LeaseRevoke(Request, kw_only=True):
    """Take a lease away, for an operator. The execution is ready again; no attempt or reclaim is counted."""

    execution_id: Id
    reason: Text = ""


class LeaseFail(Fence, kw_only=True):
    reason: Text
    category: Token = "error"
    retry_after_ms: DurationMs | None = None
    retryable: bool = True


class Failed(Reply, kw_only=True, omit_defaults=True):
    """`retry_scheduled` (with ready_at and next_attempt) or `terminal_failed`."""

    outcome: str
    ready_at: int | None = None
    next_attempt: int | None = None


class LeaseRelease(Fence, kw_only=True):
    """unbegun: also what was leased and begun in one step (`start`) goes back, because its handler has not begun."""

    unbegun: bool = False


class LeaseProgress(Fence, kw_only=True):
    pct: Annotated[float, Meta(ge=0, le=100)]
    message: Text = ""


class Progress(Reply, kw_only=True):
    progress: dict[str, Any]
