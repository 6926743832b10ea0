"""The lease-keeper's operations about workers and their kinds. A worker is kept in the partition of its name."""

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import (
    PAGE,
    Slice,
)
from penstock.messages.workers import Holding, WorkerInfo


@op("lease_keeper")
class WorkerRegister(Op[WorkerInfo], kw_only=True):
    worker_id: str
    lanes: list[str]
    capabilities: list[str]
    kinds: list[str] | None = None
    version: str
    heartbeat_ms: int
    slots: int | None = None


@op("lease_keeper")
class WorkerHeartbeat(Op[WorkerInfo], kw_only=True):
    """Note that a worker is alive. status: the worker's own (active, draining or stopped)."""

    worker_id: str
    lanes: list[str]
    capabilities: list[str]
    kinds: list[str] | None = None
    version: str
    heartbeat_ms: int
    slots: int | None = None
    loop_lag_ms: int | None = None
    holds: list[Holding] | None = None
    status: str


@op("lease_keeper")
class WorkerDrain(Op[WorkerInfo], kw_only=True):
    worker_id: str


class LeasesHeld(Struct):
    held: list[int]


@op("lease_keeper")
class WorkerHeld(Op[LeasesHeld], kw_only=True):
    """Count the leases that each of these workers holds in this partition. Return the counts in the same order."""

    ids: list[str]


class KindTold(Struct, omit_defaults=True):
    """input: a JSON Schema, as text."""

    kind: str
    input: str | None
    description: str


@op("lease_keeper")
class KindsTell(Op[None], kw_only=True):
    """Note what a worker tells of its kinds."""

    told: list[KindTold]
    lanes: list[str]

    def cost(self) -> int:
        return 1 + len(self.told)


class KindKept(KindTold, kw_only=True):
    lanes: list[str]
    registered_at: int
    input: str | None = None


@op("lease_keeper", weight=PAGE)
class KindList(Op[Slice[KindKept]], kw_only=True):
    """Return a page of the kinds of which workers have told, sorted by name. kind: this one only."""

    kind: str | None = None
    cursor: str | None = None
    limit: int
