"""The lease-keeper's operations about used budget: steps in the partitions of the execution and of the budget."""

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op
from penstock.messages.limits import UsageTotal


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
