"""Checks that the quotas and budgets named in specs exist. They may live in other partitions than the execution."""

import time
from collections.abc import Sequence
from typing import Any, Final

from penstock.errors import PenstockError
from penstock.machine.machine import Machine
from penstock.machine.op import Op
from penstock.machine.ops.common import BudgetGet, QuotaGet
from penstock.messages.executions import ExecutionSpec

KNOWN_S: Final = 5.0
"""How long a quota or budget that was found counts as existing, in seconds."""
MOST: Final = 10_000


class References:
    """Looks up quotas and budgets, and caches those that exist for KNOWN_S."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._seen: dict[str, float] = {}

    async def check(self, specs: Sequence[ExecutionSpec]) -> None:
        """Raise the error of the first spec that names a missing quota or budget."""
        for error in (await self.missing(specs)).values():
            raise error

    async def missing(self, specs: Sequence[ExecutionSpec]) -> dict[int, PenstockError]:
        """Return the error of each spec that names a missing quota or budget, by the spec's index."""
        named = {
            index: _questions(spec)
            for index, spec in enumerate(specs)
            if spec.quota_id is not None or spec.budget_ids
        }
        if not named:
            return {}
        now = time.monotonic()
        wanted = {ref: question for questions in named.values() for ref, question in questions.items()}
        unknown = [ref for ref in wanted if self._seen.get(ref, 0.0) < now]
        replies = await self._machine.run_many([wanted[ref] for ref in unknown])
        errors: dict[str, PenstockError] = {}
        if len(self._seen) > MOST:
            self._seen = {ref: until for ref, until in self._seen.items() if until >= now}
        for ref, reply in zip(unknown, replies, strict=True):
            if isinstance(reply, PenstockError):
                errors[ref] = reply
            else:
                self._seen[ref] = now + KNOWN_S
        return {index: errors[ref] for index, refs in named.items() for ref in refs if ref in errors}

    def forget(self, entity_id: str) -> None:
        """Remove a deleted quota or budget from the cache."""
        self._seen.pop(entity_id, None)


def _questions(spec: ExecutionSpec) -> dict[str, Op[Any]]:
    """Return the look-ups of a spec's quota and budgets, by id."""
    questions: dict[str, Op[Any]] = {each: BudgetGet(budget_id=each) for each in spec.budget_ids}
    if spec.quota_id is not None:
        questions[spec.quota_id] = QuotaGet(quota_id=spec.quota_id)
    return questions
