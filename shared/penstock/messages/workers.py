"""Messages about workers: their lanes, capabilities, kinds and heartbeats."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, field

from penstock.messages.common import (
    Capabilities,
    DurationMs,
    Id,
    Instant,
    Kind,
    Kinds,
    Limit,
    Reply,
    Request,
    Token,
)

Lanes = Annotated[list[Token], Meta(min_length=1, max_length=64)]
HEARTBEAT_MS = 10_000
MAX_HOLDS: Final = 50
"""The most tasks that a heartbeat names."""


class Schema(Request, kw_only=True):
    """What a worker tells of one kind that it handles. input: the JSON Schema of its input; description: for people."""

    input: dict[str, Any] | None = None
    description: Annotated[str, Meta(max_length=1024)] = ""


class About(Request, kw_only=True):
    """What a worker tells of itself. slots: how many tasks it runs at once."""

    worker_id: Token
    lanes: Lanes = field(default_factory=lambda: ["default"])
    capabilities: Capabilities = []
    kinds: Kinds | None = None
    version: Annotated[str, Meta(max_length=128)] = ""
    heartbeat_ms: Annotated[int, Meta(ge=100, le=3_600_000, description="milliseconds")] = HEARTBEAT_MS
    slots: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class WorkerRegister(About, kw_only=True):
    """Register a worker. It is lost after three `heartbeat_ms` without a heartbeat, and removed ten minutes later.

    schemas: of the kinds that it handles, for `kind.list`; at most 64 KiB each, as JSON.
    """

    schemas: Annotated[dict[Kind, Schema], Meta(max_length=1000)] | None = None


class Holding(Request, kw_only=True):
    """A task that a worker runs. since: when its handler began."""

    execution_id: Id
    kind: Kind
    since: Instant


class WorkerHeartbeat(About, kw_only=True):
    """Report that a worker is alive. An unknown worker is registered; `stopped` removes it from the list.

    loop_lag_ms: the longest time since the last heartbeat that its event loop did not turn. holds: what it runs now,
    the oldest first.
    """

    status: Literal["active", "draining", "stopped"] = "active"
    loop_lag_ms: DurationMs | None = None
    holds: Annotated[list[Holding], Meta(max_length=MAX_HOLDS)] | None = None


class WorkerDrain(Request, kw_only=True):
    """Tell a worker to finish its tasks and ask for no more."""

    worker_id: Token


class WorkerList(Request, kw_only=True):
    """List workers, sorted by name. All given filters must match."""

    lane: Token | None = None
    status: Literal["active", "draining", "lost"] | None = None
    cursor: Token | None = None
    limit: Limit = 100


class WorkerInfo(Reply, kw_only=True):
    """A worker. kinds: what it takes, None for all; held: how many leases it holds now (only in lists).

    slots, loop_lag_ms, holds: as its last heartbeat told them (at `seen_at`); None if it does not tell. holds: at most
    50, the oldest first. For all that it holds at this moment, ask `execution.search` with its `worker_id`.
    """

    worker_id: str
    lanes: list[str]
    capabilities: list[str] = []
    kinds: list[str] | None = None
    version: str = ""
    status: str
    heartbeat_ms: int
    registered_at: int
    seen_at: int
    held: int | None = None
    slots: int | None = None
    loop_lag_ms: int | None = None
    holds: list[Holding] | None = None


class KindList(Request, kw_only=True):
    """List the kinds that workers have told of, sorted by name. kind: this one only."""

    kind: Kind | None = None
    cursor: Kind | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 100


class KindInfo(Reply, kw_only=True):
    """A kind, as the worker that registered last tells of it. input: the JSON Schema of its input, if known.

    lanes: those of that worker. registered_at: when; thirty days later the kind is forgotten.
    """

    kind: str
    input: dict[str, Any] | None = None
    description: str = ""
    lanes: list[str] = []
    registered_at: int


class CancelPush(Reply, kw_only=True, tag_field="type", tag="cancel"):
    """Pushed to the worker that holds this lease: stop this task."""

    execution_id: str
    lease_id: str


class DrainPush(Reply, kw_only=True, tag_field="type", tag="drain"):
    """Pushed to a worker: finish the tasks, and ask for no more."""


Push = CancelPush | DrainPush
"""What is pushed to a worker on its own subject. A worker ignores types that it does not know."""
