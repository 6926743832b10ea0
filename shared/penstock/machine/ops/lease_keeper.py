"""The lease-keeper's operations: leases, outcomes, frames, workers, the use of budgets."""

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op
from penstock.machine.ops.common import BudgetGet, Claim, Due, DueDone, QuotaGet, WorkerList
from penstock.machine.specs import NewExecution
from penstock.messages.common import StateReply
from penstock.messages.leases import Completed, Failed, Renewed
from penstock.messages.leases import Progress as ProgressTold
from penstock.messages.limits import UsageTotal
from penstock.messages.workers import WorkerInfo

__all__ = ["BudgetGet", "Claim", "Due", "DueDone", "QuotaGet", "WorkerList"]


# -- a lease that goes on, or is taken back --------------------------------------------------------


@op("lease_keeper", by="execution_id")
class Start(Fenced[StateReply], kw_only=True):
    pass


@op("lease_keeper", by="execution_id")
class Renew(Fenced[Renewed], kw_only=True):
    lease_ttl_ms: int | None = None


@op("lease_keeper", by="execution_id")
class Revoke(Op[StateReply], kw_only=True):
    """An operator takes the lease away."""

    execution_id: str
    reason: str


@op("lease_keeper", by="execution_id")
class Release(Fenced[StateReply], kw_only=True):
    """A lease that has not begun goes back."""


@op("lease_keeper", by="execution_id")
class Progress(Fenced[ProgressTold], kw_only=True):
    pct: float
    message: str


# -- outcomes --------------------------------------------------------------------------------------


@op("lease_keeper", by="execution_id")
class Complete(Fenced[Completed], kw_only=True):
    """result: JSON text, None for null. children: made with it."""

    result: str | None = None
    children: list[NewExecution] | None = None


@op("lease_keeper", by="execution_id")
class Fail(Fenced[Failed], kw_only=True):
    reason: str
    category: str
    retryable: bool
    retry_after_ms: int | None = None


@op("lease_keeper", by="execution_id")
class Cancel(Fenced[StateReply], kw_only=True):
    """The worker gives the work up, for good."""

    reason: str | None = None


@op("lease_keeper", by="execution_id")
class Delay(Fenced[StateReply], kw_only=True):
    until: int


@op("lease_keeper", by="execution_id")
class AwaitChildren(Fenced[StateReply], kw_only=True):
    pass


class NamespaceOf(Struct):
    namespace: str


@op("lease_keeper", by="execution_id")
class Namespace(Op[NamespaceOf], kw_only=True):
    """Which one an execution's children will have."""

    execution_id: str


# -- frames ----------------------------------------------------------------------------------------


class Stored(Struct):
    """A frame's place among its execution's, from 1, how many there are, and when it came."""

    index: int
    count: int
    at: int
    duplicate: bool = False


@op("lease_keeper", by="execution_id")
class Frame(Fenced[Stored], kw_only=True):
    """payload, metadata: JSON text, None for null. position: the lease's nth; a repeat is stored once."""

    frame_type: str
    payload: str | None = None
    metadata: str | None = None
    position: int | None = None


class KeptFrame(Struct, array_like=True):
    """payload, metadata: JSON text."""

    index: int
    attempt_index: int
    frame_type: str
    at: int
    payload: str
    metadata: str


class FramesRead(Struct):
    """last: the index that was looked at last."""

    items: list[KeptFrame]
    last: int
    more: bool


@op("lease_keeper", by="execution_id", weight=24)
class FrameRead(Op[FramesRead], kw_only=True):
    """Frames in order, after an index; of one attempt, where that is given."""

    execution_id: str
    attempt_index: int | None = None
    after: int
    limit: int


# -- workers: they live in the partition of their names ---------------------------------------------


@op("lease_keeper")
class WorkerRegister(Op[WorkerInfo], kw_only=True):
    worker_id: str
    lanes: list[str]
    capabilities: list[str]
    version: str
    heartbeat_ms: int


@op("lease_keeper")
class WorkerHeartbeat(Op[WorkerInfo], kw_only=True):
    """It is still there. status: what it says of itself (active, draining or stopped)."""

    worker_id: str
    lanes: list[str]
    capabilities: list[str]
    version: str
    heartbeat_ms: int
    status: str


@op("lease_keeper")
class WorkerDrain(Op[WorkerInfo], kw_only=True):
    worker_id: str


class LeasesHeld(Struct):
    held: list[int]


@op("lease_keeper")
class WorkerHeld(Op[LeasesHeld], kw_only=True):
    """How many leases these workers hold in this partition, in their order."""

    ids: list[str]


# -- the use of budgets: steps in the partitions of the execution and of the budget -------------------


class Over(Struct):
    """Whether a report has ended this very lease."""

    over: bool


@op("lease_keeper", by="execution_id")
class UsageFence(Fenced[Over], kw_only=True):
    """First step of lease.usage. strict: a lease that has ended is refused."""

    budget_id: str
    strict: bool = False


class Counted(Struct, kw_only=True):
    """status: ok, soft_breach, hard_breach or already_applied. breach: what must be done to the reporter.

    unknown: the lease has ended, and this is no repeat.
    """

    status: str = ""
    dimensions: dict[str, UsageTotal] = {}
    breach: str | None = None
    dimension: str | None = None
    unknown: bool = False


@op("lease_keeper", by="budget_id")
class Usage(Op[Counted], kw_only=True):
    """Second step: the report counts."""

    budget_id: str
    execution_id: str
    lease_id: str
    dimensions: dict[str, int]
    dedup_key: str | None = None
    over: bool = False


class Stopped(Struct):
    """The execution's state, if it is there, and whether this suspended it."""

    suspended: bool
    state: str | None = None


@op("lease_keeper", by="execution_id")
class BudgetBreach(Op[Stopped], kw_only=True):
    """Third step: the lease ends. breach: suspend or fail."""

    execution_id: str
    lease_id: str
    budget_id: str
    breach: str
    dimension: str | None = None
    tell_worker: bool = False


@op("lease_keeper", by="execution_id")
class BudgetResume(Op[None], kw_only=True):
    """There is room again."""

    execution_id: str
    lease_id: str
    budget_id: str


@op("lease_keeper", by="budget_id")
class BudgetSettle(Op[None], kw_only=True):
    """Last step, where the budget is. stopped: (member, suspended) each; a member is `<execution>|<lease>`."""

    budget_id: str
    stopped: list[tuple[str, bool]]
    resumed: list[str]


class DueBudget(Struct):
    """What a due budget hands out: members that are still to be stopped, and members that may go on."""

    budget_id: str
    breach: str
    late: list[str]
    resume: list[str]
