"""The lease-keeper's operations: leases, outcomes, journals, frames, workers, and reports of used budget."""

from typing import Any

from msgspec import Struct

from penstock.machine.journal import EntryStored, EntryToStore
from penstock.machine.op import Fenced, Op, op
from penstock.machine.ops.common import (
    PAGE,
    BudgetGet,
    Claim,
    Due,
    DueDone,
    QuotaGet,
    Slice,
    WorkerList,
)
from penstock.machine.specs import NewExecution
from penstock.messages.common import StateReply
from penstock.messages.leases import Completed, Failed, Renewed
from penstock.messages.leases import Progress as ProgressTold
from penstock.messages.limits import UsageTotal
from penstock.messages.workers import Holding, WorkerInfo
from penstock.store.caller import MOST

__all__ = ["BudgetGet", "Claim", "Due", "DueDone", "QuotaGet", "WorkerList"]


# -- leases: start, renewal, release, revocation -------------------------------------------------------


@op("lease_keeper", by="execution_id")
class Start(Fenced[StateReply], kw_only=True):
    pass


@op("lease_keeper", by="execution_id")
class Renew(Fenced[Renewed], kw_only=True):
    lease_ttl_ms: int | None = None


@op("lease_keeper", by="execution_id")
class Stalled(Fenced[StateReply], kw_only=True):
    """Note that the worker's event loop has been blocked for `blocked_ms`, so that nobody renews the lease."""

    blocked_ms: int


@op("lease_keeper", by="execution_id")
class Revoke(Op[StateReply], kw_only=True):
    """Take a lease away, for an operator."""

    execution_id: str
    reason: str


@op("lease_keeper", by="execution_id")
class Release(Fenced[StateReply], kw_only=True):
    """Give back a lease whose task has not been started; with `unbegun`, also one that was begun when it was leased."""

    unbegun: bool = False


@op("lease_keeper", by="execution_id")
class Progress(Fenced[ProgressTold], kw_only=True):
    pct: float
    message: str


# -- outcomes --------------------------------------------------------------------------------------


class Next(Struct, omit_defaults=True):
    """The execution that goes on in place of one that completes. input: JSON text, None for null."""

    execution_id: str
    input: str | None = None


@op("lease_keeper", by="execution_id")
class Complete(Fenced[Completed], kw_only=True):
    """result: JSON text, None for null. children, next: executions that are created in the same step.

    orphans, drift: keys of the journal, for the event.
    """

    result: str | None = None
    children: list[NewExecution] | None = None
    next: Next | None = None
    orphans: list[str] | None = None
    drift: list[str] | None = None


@op("lease_keeper", by="execution_id")
class Fail(Fenced[Failed], kw_only=True):
    reason: str
    category: str
    retryable: bool
    retry_after_ms: int | None = None


@op("lease_keeper", by="execution_id")
class Cancel(Fenced[StateReply], kw_only=True):
    """End the execution as canceled, because its worker gives the work up for good."""

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
    """Return the namespace that an execution's children get."""

    execution_id: str


# -- journals --------------------------------------------------------------------------------------


@op("lease_keeper", by="execution_id", weight=24)
class JournalOpen(Fenced[list[Any]], kw_only=True):
    """Return a page of the journal (penstock.machine.journal.page). version, pin: recorded, unless one is."""

    version: str | None = None
    pin: bool = False
    after: int
    limit: int


@op("lease_keeper", by="execution_id", weight=24)
class JournalRead(Op[list[Any]], kw_only=True):
    execution_id: str
    after: int
    limit: int


class AppendResult(Struct):
    """outcome: stored or exists."""

    key: str
    outcome: str
    entry: EntryStored | None = None


class AppendDone(Struct):
    results: list[AppendResult]
    count: int
    bytes: int


@op("lease_keeper", by="execution_id")
class JournalAppend(Fenced[AppendDone], kw_only=True):
    """Store entries, all or none."""

    entries: list[EntryToStore]
    version: str | None = None
    pin: bool = False

    def cost(self) -> int:
        return _cost(self.entries, 0)


class HeldBack(Struct, omit_defaults=True):
    """What an operator has to decide."""

    code: str
    key: str | None = None
    message: str | None = None


class ParkDone(Struct):
    """outcome: suspended, already_satisfied or canceled."""

    outcome: str
    wake_at: int | None = None
    results: list[AppendResult] = []
    items: list[EntryStored] = []


@op("lease_keeper", by="execution_id")
class Park(Fenced[ParkDone], kw_only=True):
    """Store entries, and suspend until those of them that wait, and those of `keys`, have ended. any: one is enough."""

    entries: list[EntryToStore]
    keys: list[str]
    any: bool = False
    hold: HeldBack | None = None
    version: str | None = None
    pin: bool = False

    def cost(self) -> int:
        return _cost(self.entries, len(self.keys))


def _cost(entries: list[EntryToStore], keys: int) -> int:
    return min(MOST, 1 + (sum(entry.cost() for entry in entries) + keys) // 4)


# -- frames ----------------------------------------------------------------------------------------


class Stored(Struct):
    """A stored frame's place among its execution's frames (from 1), their number, and the time it was stored."""

    index: int
    count: int
    at: int
    duplicate: bool = False


@op("lease_keeper", by="execution_id")
class Frame(Fenced[Stored], kw_only=True):
    """payload, metadata: JSON text, None for null. position: the frame's number in the lease, to detect repeats."""

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
    """last: the last index that was examined."""

    items: list[KeptFrame]
    last: int
    more: bool


@op("lease_keeper", by="execution_id", weight=24)
class FrameRead(Op[FramesRead], kw_only=True):
    """Return frames in order, after index `after`; only those of `attempt_index`, if it is given."""

    execution_id: str
    attempt_index: int | None = None
    after: int
    limit: int


# -- workers: each is kept in the partition of its name ---------------------------------------------


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


# -- reports of used budget: steps in the partitions of the execution and of the budget ---------------


class Over(Struct):
    """over: whether an earlier report has ended this very lease."""

    over: bool


@op("lease_keeper", by="execution_id")
class UsageFence(Fenced[Over], kw_only=True):
    """First step of lease.usage: check the fence. strict: refuse a lease that an earlier report has ended."""

    budget_id: str
    strict: bool = False


class Counted(Struct, kw_only=True):
    """status: ok, soft_breach, hard_breach or already_applied. breach: suspend or fail the reporting execution.

    unknown: the lease has ended, and this report is no repeat of an earlier one.
    """

    status: str = ""
    dimensions: dict[str, UsageTotal] = {}
    breach: str | None = None
    dimension: str | None = None
    unknown: bool = False


@op("lease_keeper", by="budget_id")
class Usage(Op[Counted], kw_only=True):
    """Second step: count the report in the budget."""

    budget_id: str
    execution_id: str
    lease_id: str
    dimensions: dict[str, int]
    dedup_key: str | None = None
    over: bool = False


class Stopped(Struct):
    """The execution's state (None: no such execution), and whether this operation suspended it."""

    suspended: bool
    state: str | None = None


@op("lease_keeper", by="execution_id")
class BudgetBreach(Op[Stopped], kw_only=True):
    """Third step, after a breach: end the lease. breach: suspend or fail the execution."""

    execution_id: str
    lease_id: str
    budget_id: str
    breach: str
    dimension: str | None = None
    tell_worker: bool = False


@op("lease_keeper", by="execution_id")
class BudgetResume(Op[None], kw_only=True):
    """Resume an execution that the budget suspended, because the budget has room again."""

    execution_id: str
    lease_id: str
    budget_id: str


@op("lease_keeper", by="budget_id")
class BudgetSettle(Op[None], kw_only=True):
    """Last step: record the stopped and resumed members (`<execution>|<lease>`). stopped: (member, suspended) each."""

    budget_id: str
    stopped: list[tuple[str, bool]]
    resumed: list[str]


class DueBudget(Struct):
    """Work handed out by a due budget. late: members still to be stopped; resume: members that may go on."""

    budget_id: str
    breach: str
    late: list[str]
    resume: list[str]
