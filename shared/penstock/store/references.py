"""Whether what specs name exists: their quotas and budgets, which live in partitions of their own."""

import time
from collections.abc import Sequence
from typing import Any, Final

from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.messages.executions import ExecutionSpec
from penstock.store.caller import Store

KNOWN_S: Final = 5.0
"""How long one that was seen counts as there."""
MOST: Final = 10_000


class References:
    """Looks quotas and budgets up, and remembers for a moment those that exist."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[tuple[str, str], float] = {}

    async def missing(self, specs: Sequence[ExecutionSpec]) -> dict[int, PenstockError]:
        """Which of the specs name something that does not exist, by their place, each with its error."""
        named = {
            index: refs
            for index, spec in enumerate(specs)
            if (spec.quota_id is not None or spec.budget_ids) and (refs := _refs(spec))
        }
        if not named:
            return {}
        now = time.monotonic()
        wanted = {ref for refs in named.values() for ref in refs}
        unknown = [ref for ref in wanted if self._seen.get(ref, 0.0) < now]
        replies = await self._store.call_many([_question(*ref) for ref in unknown])
        errors: dict[tuple[str, str], PenstockError] = {}
        if len(self._seen) > MOST:
            self._seen = {ref: until for ref, until in self._seen.items() if until >= now}
        for ref, reply in zip(unknown, replies, strict=True):
            if isinstance(reply, PenstockError):
                errors[ref] = reply
            else:
                self._seen[ref] = now + KNOWN_S
        return {index: errors[ref] for index, refs in named.items() for ref in refs if ref in errors}

    def forget(self, kind: str, entity_id: str) -> None:
        """It was deleted."""
        self._seen.pop((kind, entity_id), None)


def _refs(spec: ExecutionSpec) -> list[tuple[str, str]]:
    refs = [("budget", budget_id) for budget_id in spec.budget_ids]
    if spec.quota_id is not None:
        refs.append(("quota", spec.quota_id))
    return refs


def _question(kind: str, entity_id: str) -> tuple[int, str, dict[str, Any]]:
    return partition_of(entity_id), f"{kind}_get", {f"{kind}_id": entity_id}
