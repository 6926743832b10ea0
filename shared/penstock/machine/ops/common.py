"""Operations and replies that several services have."""

from typing import Any, Final, Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType

from penstock.machine.op import Op, op
from penstock.messages.flows import Flow
from penstock.messages.leases import TaskMessage
from penstock.messages.limits import Budget, Quota
from penstock.messages.workers import WorkerInfo
from penstock.store.caller import MOST

T = TypeVar("T")
ALL: Final = (
    "scheduler",
    "lease_keeper",
    "signal_router",
    "mirror_observer",
    "cancel_reconciler",
    "audit_relay",
)
PAGE: Final = 12
"""The weight of a page of a list."""


class Now(Struct):
    """Valkey's clock, in milliseconds since the Unix epoch."""

    now: int


class Slice(Struct, Generic[T]):
    """A part of a list, and the id behind which it goes on (None: that was the end)."""

    items: list[T] = []
    cursor: str | None = None


@op(*ALL)
class Ping(Op[Now], kw_only=True):
    """Whether the function answers."""


class Deployed(Now):
    partitions: int


@op(*ALL)
class Deployment(Op[Deployed], kw_only=True):
    """The number of partitions, fixed by the first service that ever asks."""

    partitions: int


class DueDone(Now):
    """What a service's due loop needs to know.

    outside: work that the service has to do (in other partitions, or in Python); errors: what failed and comes again.
    """

    handled: int
    more: bool
    next_at: int | None = None
    errors: list[str] = []
    outside: list[Any] = []


@op("scheduler", "lease_keeper", "signal_router", "cancel_reconciler", weight=MOST)
class Due(Op[DueDone], kw_only=True):
    """Handles what is due."""

    limit: int


class Task(TaskMessage, kw_only=True):
    """A task. edge_inputs: (key, result) of the edges that hand results on to it, still to be merged into its input."""

    input: str | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    edge_inputs: list[tuple[str, str]] | UnsetType = UNSET


@op("scheduler", "lease_keeper", by="execution_id")
class Claim(Op[Task], kw_only=True):
    """A grant becomes a lease. verb: claim, claim_resumed, reclaim or any."""

    execution_id: str
    grant_id: str
    worker_id: str
    lease_ttl_ms: int
    start: bool = False
    verb: str


@op("scheduler", "lease_keeper", by="quota_id")
class QuotaGet(Op[Quota], kw_only=True):
    quota_id: str


@op("scheduler", "lease_keeper", by="budget_id")
class BudgetGet(Op[Budget], kw_only=True):
    budget_id: str


class StateSeen(Struct):
    """What a patch is merged into (JSON text), the revision that it is of, and Valkey's clock."""

    state: str
    revision: int
    now: int


@op("scheduler", "signal_router", by="flow_id")
class FlowState(Op[StateSeen], kw_only=True):
    flow_id: str


@op("scheduler", "signal_router", by="flow_id")
class FlowGet(Op[Flow], kw_only=True):
    flow_id: str


class WorkerPage(Struct):
    """Workers in the order of their names. last: up to which name this is all there is (None: to the end)."""

    items: list[WorkerInfo]
    last: str | None = None


@op("scheduler", "lease_keeper", weight=PAGE)
class WorkerList(Op[WorkerPage], kw_only=True):
    """A page of one partition's workers, looking at no more than `budget` of them."""

    cursor: str | None = None
    limit: int
    budget: int
    lane: str | None = None
    status: str | None = None
