"""Operations that create, change and delete budgets. The rules are in lua/limit/budgets.lua."""

from penstock.machine.op import Op, op
from penstock.messages.limits import Budget, BudgetLimits


@op("scheduler", by="id")
class BudgetCreate(Op[Budget], kw_only=True):
    id: str
    dimensions: dict[str, BudgetLimits]
    on_hard: str
    reset_every_ms: int | None = None
    namespace: str
    idempotency_key: str | None = None
    digest: str | None = None


@op("scheduler", by="budget_id")
class BudgetReplenish(Op[Budget], kw_only=True):
    budget_id: str
    dimensions: dict[str, int]
    idempotency_key: str | None = None
    digest: str | None = None


@op("scheduler", by="budget_id")
class BudgetReset(Op[Budget], kw_only=True):
    budget_id: str


@op("scheduler", by="budget_id")
class BudgetDelete(Op[Budget], kw_only=True):
    """Delete a budget. Return the budget as it was."""

    budget_id: str
