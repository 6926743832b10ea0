"""What steers an execution, and what tells why it does not run: answered by the scheduler."""

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, Raw, UnsetType

from penstock.messages.common import Id, IdempotencyKey, Priority, Reply, Request, Tags, Text
from penstock.messages.executions import ExecutionCreated


class ExecutionRunNow(Request, kw_only=True):
    """What waits for a time (run_at, a backoff, a delay) becomes ready; what is ready stays so."""

    execution_id: Id


class ExecutionSuspend(Request, kw_only=True):
    """An operator holds what runs: its lease ends, its worker is told, nothing is counted against it."""

    execution_id: Id
    reason: Text = ""


class ExecutionResume(Request, kw_only=True):
    """What is suspended, for whatever reason, goes on with the same attempt."""

    execution_id: Id
    reason: Text = ""


class ExecutionChangePriority(Request, kw_only=True):
    """Its place in its queue follows at once."""

    execution_id: Id
    priority: Priority


class ExecutionSetTags(Request, kw_only=True):
    """These tags and no others."""

    execution_id: Id
    tags: Tags


class ExecutionReplay(Request, kw_only=True):
    """Runs an ended execution again, as a new one: same spec, but for run_at, deadline_at, flow and parent.

    No `input`: the old one's.
    """

    payload_fields: ClassVar[tuple[str, ...]] = ("input",)

    execution_id: Id
    input: Raw | UnsetType = UNSET
    idempotency_key: IdempotencyKey | None = None


class Replayed(ExecutionCreated, kw_only=True):
    replay_of: str = ""


class ExecutionExplain(Request, kw_only=True):
    execution_id: Id


class Explanation(Reply, kw_only=True):
    """The one reason why an execution does not run now, and what to do about it.

    `waiting_for` is the same for programs. Its `kind` says what: time, dependencies, lane, claim, quota,
    concurrency_key, budget, worker, capability, outcome, signal, children, operator, cancellation, nothing
    (it has ended); the other fields depend on it.
    """

    execution_id: str
    state: str
    reason: str | None = None
    explanation: str
    advice: str
    waiting_for: Annotated[dict[str, Any], Meta(description="kind, and facts about it")]
