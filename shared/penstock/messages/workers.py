"""Workers: who says that it can do what, and whether it is still there."""

from typing import Annotated, Literal

from msgspec import Meta, field

from penstock.messages.common import Capabilities, Limit, Reply, Request, Token

Lanes = Annotated[list[Token], Meta(min_length=1, max_length=64)]
HEARTBEAT_MS = 10_000


class WorkerRegister(Request, kw_only=True):
    """A worker begins. After three `heartbeat_ms` without a word it is lost, and ten minutes later forgotten."""

    worker_id: Token
    lanes: Lanes = field(default_factory=lambda: ["default"])
    capabilities: Capabilities = []
    version: Annotated[str, Meta(max_length=128)] = ""
    heartbeat_ms: Annotated[int, Meta(ge=100, le=3_600_000, description="milliseconds")] = HEARTBEAT_MS


class WorkerHeartbeat(WorkerRegister, kw_only=True):
    """It is still there; one that is not known is registered by this. `stopped` takes it off the list."""

    status: Literal["active", "draining", "stopped"] = "active"


class WorkerDrain(Request, kw_only=True):
    """The worker is told to finish what it has, and to ask for no more."""

    worker_id: Token


class WorkerList(Request, kw_only=True):
    """In the order of their names. All filters must hold."""

    lane: Token | None = None
    status: Literal["active", "draining", "lost"] | None = None
    cursor: Token | None = None
    limit: Limit = 100


class WorkerInfo(Reply, kw_only=True):
    """A worker; `held`, in a list: how many leases it holds now."""

    worker_id: str
    lanes: list[str]
    capabilities: list[str] = []
    version: str = ""
    status: str
    heartbeat_ms: int
    registered_at: int
    seen_at: int
    held: int | None = None
