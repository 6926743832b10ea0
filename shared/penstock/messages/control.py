"""Messages that steer an execution, replay it, or explain why it does not run."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, UnsetType

from penstock.messages.common import Id, IdempotencyKey, Priority, Reply, Request, Tags, Text, Traceparent
from penstock.messages.executions import ExecutionCreated


class ExecutionRunNow(Request, kw_only=True):
    """Make an execution ready that waits for a time (run_at, a backoff or a delay). A ready one stays ready."""

    execution_id: Id


class ExecutionSuspend(Request, kw_only=True):
    """Suspend a running execution, for an operator: its lease ends, its worker is told, no attempt is counted."""

    execution_id: Id
    reason: Text = ""


class ExecutionResume(Request, kw_only=True):
    """Resume a suspended execution, whatever its reason; the same attempt goes on."""

    execution_id: Id
    reason: Text = ""


class ExecutionChangePriority(Request, kw_only=True):
    """Change an execution's priority; its place in the queue changes at once."""

    execution_id: Id
    priority: Priority


class ExecutionSetTags(Request, kw_only=True):
    """Replace all tags of an execution by these."""

    execution_id: Id
    tags: Tags


class ExecutionReplay(Request, kw_only=True):
    """Run an ended execution again, as a new execution: same spec, but no run_at, deadline_at, flow or parent.

    input: replaces the old input, if given.
    """

    execution_id: Id
    input: Raw | UnsetType = UNSET
    idempotency_key: IdempotencyKey | None = None
    traceparent: Traceparent | None = None


class Replayed(ExecutionCreated, kw_only=True):
    replay_of: str = ""


class ExecutionExplain(Request, kw_only=True):
    execution_id: Id


class Explanation(Reply, kw_only=True):
    """The one reason why an execution does not run now, and what to do about it.

    waiting_for: the reason for programs. Its `kind` is one of: time, dependencies, lane, claim, quota,
    concurrency_key, budget, worker, handler, capability, outcome, signal, children, waits, operator, cancellation,
    nothing (the execution has ended); the other fields depend on `kind`.
    """

    execution_id: str
    state: str
    reason: str | None = None
    explanation: str
    advice: str
    waiting_for: Annotated[dict[str, Any], Meta(description="kind, and facts about it")]
