"""`client.budgets`: limits on what all executions that list a budget may use together, per dimension."""

from collections.abc import Mapping
from typing import Literal

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.messages.limits import Budget, BudgetCreate, BudgetGet, BudgetLimits, BudgetReplenish


class Budgets:
    """Methods to create, read, change and delete budgets. Each raises the typed error that the service replies with."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def create(
        self,
        dimensions: Mapping[str, BudgetLimits | Mapping[str, int] | int],
        *,
        on_hard: Literal["suspend", "fail", "deny"] = "suspend",
        reset_every_ms: int | None = None,
        namespace: str = "default",
        idempotency_key: str | None = None,
    ) -> Budget:
        """Create a budget. All executions that list the budget share its limits.

        `dimensions` is like `{"tokens": {"soft": 800, "hard": 1000}}`; a plain number is a hard limit.
        Tasks report what they used with `task.report_usage`.
        """
        request = BudgetCreate(
            dimensions={name: _limits(limits) for name, limits in dimensions.items()},
            on_hard=on_hard,
            reset_every_ms=reset_every_ms,
            namespace=namespace,
            idempotency_key=idempotency_key,
        )
        return await self._requester.call(verbs.BUDGET_CREATE, request)

    async def get(self, budget_id: str) -> Budget:
        """Return a budget and its use now."""
        return await self._requester.call(verbs.BUDGET_GET, BudgetGet(budget_id=budget_id))

    async def replenish(
        self, budget_id: str, dimensions: Mapping[str, int], *, idempotency_key: str | None = None
    ) -> Budget:
        """Raise the limits by these amounts. Executions that the budget suspended or held back go on."""
        request = BudgetReplenish(
            budget_id=budget_id, dimensions=dict(dimensions), idempotency_key=idempotency_key
        )
        return await self._requester.call(verbs.BUDGET_REPLENISH, request)

    async def reset(self, budget_id: str) -> Budget:
        """Set the use of every dimension to 0. Executions that the budget suspended or held back go on."""
        return await self._requester.call(verbs.BUDGET_RESET, BudgetGet(budget_id=budget_id))

    async def delete(self, budget_id: str) -> Budget:
        """Delete a budget. Executions that the budget suspended or held back go on, without its limits."""
        return await self._requester.call(verbs.BUDGET_DELETE, BudgetGet(budget_id=budget_id))


def _limits(limits: BudgetLimits | Mapping[str, int] | int) -> BudgetLimits:
    if isinstance(limits, BudgetLimits):
        return limits
    return BudgetLimits(hard=limits) if isinstance(limits, int) else BudgetLimits(**limits)
