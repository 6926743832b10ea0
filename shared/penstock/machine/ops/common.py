"""Operations and replies that several services share."""

from typing import Any, Final, Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType, field

from penstock.machine.journal import Riding
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
"""The weight of an operation that reads a page of a list."""


class Now(Struct):
    """Valkey's clock, in milliseconds since the Unix epoch."""

    now: int


class Slice(Struct, Generic[T]):
    """A part of a list. cursor: the id after which the next part begins, or None at the end."""

    items: list[T] = []
    cursor: str | None = None


@op(*ALL)
class Ping(Op[Now], kw_only=True):
    """Do nothing but answer, to show that the function is there."""


class Deployed(Now):
    partitions: int


@op(*ALL)
class Deployment(Op[Deployed], kw_only=True):
    """Fix the number of partitions at the first call ever. Return the fixed number."""

    partitions: int


class HintKeyKept(Now):
    key: str


@op(*ALL)
class HintKey(Op[HintKeyKept], kw_only=True):
    """Keep `key` for the signatures of hints, unless there is one. Return the one that is kept."""

    key: str


class NextDueAt(Now):
    next_at: int | None = None


@op("scheduler", "lease_keeper", "signal_router", "cancel_reconciler")
class NextDue(Op[NextDueAt], kw_only=True):
    """Return when work of the service is due next; None: nothing is."""


class DueDone(Now):
    """The result of one round of due work.

    outside: work that the service itself has to do (in other partitions, or in Python); errors: failures, to retry.
    """

    handled: int
    more: bool
    next_at: int | None = None
    errors: list[str] = []
    outside: list[Any] = []


@op("scheduler", "lease_keeper", "signal_router", "cancel_reconciler", weight=MOST)
class Due(Op[DueDone], kw_only=True):
    """Handle up to `limit` due items of the service."""

    limit: int


class Task(TaskMessage, kw_only=True):
    """A task. edge_inputs: (key, result) of each edge that hands a result on to it, to be merged into its input.

    riding: the journal of a durable function, as it is stored.
    """

    raw_input: str | None = field(default=None, name="input")  # pyright: ignore[reportIncompatibleVariableOverride]
    edge_inputs: list[tuple[str, str]] | UnsetType = UNSET
    riding: Riding | UnsetType = UNSET


@op("scheduler", "lease_keeper", by="execution_id")
class Claim(Op[Task], kw_only=True):
    """Turn a grant into a lease. verb: claim, claim_resumed, reclaim or any."""

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
    """A flow's state (JSON text), for merging a patch into it, with the state's revision and Valkey's time."""

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
    """Workers, sorted by name. last: the name up to which the page is complete, or None at the end of the list."""

    items: list[WorkerInfo]
    last: str | None = None


@op("scheduler", "lease_keeper", weight=PAGE)
class WorkerList(Op[WorkerPage], kw_only=True):
    """Return a page of one partition's workers, examining at most `budget` of them."""

    cursor: str | None = None
    limit: int
    budget: int
    lane: str | None = None
    status: str | None = None
