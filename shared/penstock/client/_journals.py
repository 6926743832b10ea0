"""`client.journals`: what durable functions have done, their state, their versions, and forks of them."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from msgspec import UNSET

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.client._pages import each
from penstock.client._run import Run
from penstock.messages.journal import (
    Edit,
    Entry,
    ExecutionFork,
    ExecutionQuery,
    ExecutionVersions,
    JournalRead,
    VersionCount,
)


class Journals:
    """Methods to read and fork journals. Each raises the typed error that the service replies with."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    def read(self, execution_id: str) -> AsyncIterator[Entry]:
        """Iterate over the entries of an execution's journal, in the order in which they came."""
        return each(
            self._requester,
            verbs.JOURNAL_READ,
            lambda cursor: JournalRead(execution_id=execution_id, cursor=cursor),
        )

    async def state(self, execution_id: str, *names: str) -> dict[str, Any]:
        """Return the values that a durable function has set in `task.state`: those of `names`, or all."""
        request = ExecutionQuery(execution_id=execution_id, names=list(names))
        found = await self._requester.call(verbs.EXECUTION_QUERY, request)
        return {each.name: each.value for each in found.items}

    async def fork(
        self,
        execution_id: str,
        *,
        after_key: str | None = None,
        before_key: str | None = None,
        input: Any = UNSET,
        edits: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a new execution with a copy of a journal, up to and with `after_key`, or up to `before_key`, or all.

        `input` replaces the old input if given; `edits` gives copied entries other results, by key.
        """
        request = ExecutionFork(
            execution_id=execution_id,
            after_key=after_key,
            before_key=before_key,
            input=UNSET if input is UNSET else raw_of(input),
            edits=[Edit(key=key, raw_result=raw_of(result)) for key, result in (edits or {}).items()],
            idempotency_key=idempotency_key,
        )
        made = await self._requester.call(verbs.EXECUTION_FORK, request)
        return Run(self._requester, made.execution_id, duplicate=made.duplicate)

    async def versions(self, kind: str) -> list[VersionCount]:
        """Return how many executions of a kind have not ended, by the version that was recorded for them."""
        page = await self._requester.call(verbs.EXECUTION_VERSIONS, ExecutionVersions(kind=kind))
        return page.items
