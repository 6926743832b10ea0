"""Messages that find executions by a filter, and change all that match one in the background."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Raw, field

from penstock.messages.common import (
    DurationMs,
    Id,
    IdCursor,
    IdempotencyKey,
    Instant,
    Kind,
    KindsItem,
    Limit,
    Page,
    Priority,
    Reply,
    Request,
    Tags,
    Text,
    Token,
    raw,
)
from penstock.messages.executions import TagFilter
from penstock.states import ExecutionState

GroupId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}(?!\n)$", description="as failure.groups gave it")]
BulkStatus = Literal["running", "finished", "stopped"]
BulkActionName = Literal[
    "cancel", "replay", "suspend", "resume", "run_now", "change_priority", "set_tags", "revoke", "signal"
]
VERB_OF_ACTION: Final[dict[BulkActionName, str]] = {
    "cancel": "execution.cancel",
    "replay": "execution.replay",
    "suspend": "execution.suspend",
    "resume": "execution.resume",
    "run_now": "execution.run_now",
    "change_priority": "execution.change_priority",
    "set_tags": "execution.set_tags",
    "revoke": "lease.revoke",
    "signal": "signal.send",
}
"""The verb that does to one execution what the action does to many. Who may ask for bulk changes may use them all."""
BULK_PAYLOAD_BYTES: Final = 65_536
"""The most bytes of a bulk change's payload, which is sent again for each execution."""


class ExecutionFilter(Request, kw_only=True):
    """What an execution must be; all given fields must match, and none given matches every execution.

    kind: a kind, or a prefix such as `mail.*`. tag: a tag's name, or `name=value`. worker_id: the worker that holds its
    lease now. text: stands somewhere in its id, its kind, a tag's name or a tag's value, whatever the case.
    failure_category: of its last failure. failure_group: one of `failure.groups`; such an execution has failed.
    min_attempts, max_attempts: how many attempts have begun. created_*, finished_*: from that instant, until before it.
    """

    namespace: Token | None = None
    lane: Token | None = None
    kind: KindsItem | None = None
    states: Annotated[list[ExecutionState], Meta(min_length=1, max_length=9)] | None = None
    flow_id: Id | None = None
    parent_id: Id | None = None
    tag: TagFilter | None = None
    worker_id: Token | None = None
    text: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    failure_category: Token | None = None
    failure_group: GroupId | None = None
    min_attempts: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    max_attempts: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    created_from: Instant | None = None
    created_until: Instant | None = None
    finished_from: Instant | None = None
    finished_until: Instant | None = None


class ExecutionSearch(Request, kw_only=True):
    """Find executions, newest first. A page may be short, or empty, and still have a cursor (see `Found`)."""

    filter: ExecutionFilter = field(default_factory=ExecutionFilter)
    cursor: IdCursor | None = None
    limit: Limit = 100


class ExecutionRow(Reply, kw_only=True):
    """An execution without its payloads. worker_id: who holds its lease now."""

    execution_id: str
    namespace: str
    kind: str
    lane: str
    priority: int
    state: str
    reason: str | None = None
    outcome: str | None = None
    failure: dict[str, Any] | None = None
    attempt_index: int = 0
    max_attempts: int = 1
    reclaims: int = 0
    worker_id: str | None = None
    flow_id: str | None = None
    parent_id: str | None = None
    replay_of: str | None = None
    tags: dict[str, str] = {}
    progress: dict[str, Any] | None = None
    cancel_requested: bool = False
    created_at: int = 0
    ready_at: int | None = None
    started_at: int | None = None
    updated_at: int = 0
    finished_at: int | None = None


class Found(Page[ExecutionRow], kw_only=True):
    """A page of a search. looked: how many executions were examined for this page.

    looked_to: the page is complete down to executions created at this instant; None: it is the end of the list.
    """

    looked: int = 0
    looked_to: int | None = None


class ExecutionBulk(Request, kw_only=True):
    """Change all executions that match a filter and were created before now, in the background, newest first.

    reason: for cancel, suspend, resume, revoke and signal. grace_ms: for cancel. priority: for change_priority, where
    it is required. tags: for set_tags, where they are required; they are added to those that an execution has.
    name, payload, waitpoint_key: for signal, as in `signal.send`; it needs the name. The payload has at most 64 KiB.
    rate: at most so many executions a second. most: stop after so many; None: all.
    """

    filter: ExecutionFilter
    action: BulkActionName
    reason: Text = ""
    grace_ms: DurationMs | None = None
    priority: Priority | None = None
    tags: Tags | None = None
    name: Kind | None = None
    payload: Raw = raw()
    waitpoint_key: Token | None = None
    rate: Annotated[int, Meta(ge=1, le=1000, description="executions a second")] = 100
    most: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    idempotency_key: IdempotencyKey | None = None


class BulkGet(Request, kw_only=True):
    bulk_id: Id


class BulkList(Request, kw_only=True):
    """List bulk changes, newest first."""

    status: BulkStatus | None = None
    cursor: IdCursor | None = None
    limit: Limit = 100


class Bulk(Reply, kw_only=True):
    """A bulk change and how far it is.

    looked: executions examined. done: executions changed. refused: executions that matched but did not admit the
    change, because their state had moved on; last_error: {code, message, execution_id} of the last of them.
    looked_to: everything created after this instant has been looked at. by: the user who began it, if one is known.
    name, waitpoint_key: of the signals that it sends; their payload is not told.
    """

    bulk_id: str
    status: str
    filter: ExecutionFilter
    action: str
    reason: str = ""
    grace_ms: int | None = None
    priority: int | None = None
    tags: dict[str, str] | None = None
    name: str | None = None
    waitpoint_key: str | None = None
    rate: int
    most: int | None = None
    looked: int = 0
    done: int = 0
    refused: int = 0
    last_error: dict[str, Any] | None = None
    looked_to: int | None = None
    by: str | None = None
    created_at: int
    updated_at: int
    finished_at: int | None = None
    duplicate: bool = False
