"""Messages about workers: their lanes, capabilities, kinds and heartbeats."""

from typing import Annotated, Literal

from msgspec import Meta, field

from penstock.messages.common import Capabilities, Kinds, Limit, Reply, Request, Token

Lanes = Annotated[list[Token], Meta(min_length=1, max_length=64)]
HEARTBEAT_MS = 10_000


class WorkerRegister(Request, kw_only=True):
    """Register a worker. It is lost after three `heartbeat_ms` without a heartbeat, and removed ten minutes later."""

    worker_id: Token
    lanes: Lanes = field(default_factory=lambda: ["default"])
    capabilities: Capabilities = []
    kinds: Kinds | None = None
    version: Annotated[str, Meta(max_length=128)] = ""
    heartbeat_ms: Annotated[int, Meta(ge=100, le=3_600_000, description="milliseconds")] = HEARTBEAT_MS


class WorkerHeartbeat(WorkerRegister, kw_only=True):
    """Report that a worker is alive. An unknown worker is registered; `stopped` removes it from the list."""

    status: Literal["active", "draining", "stopped"] = "active"


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
    """A worker. kinds: what it takes, None for all; held: how many leases it holds now (only in lists)."""

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
