"""The methods of `Client` about executions: creates, reads, steers and explains them."""

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack, overload

from msgspec import UNSET
from nats.aio.client import Client as Nats

from penstock import errors, verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.client import _frames as frames
from penstock.client._options import ExecutionOptions, create_request, execute_request
from penstock.client._pages import each
from penstock.client._run import Run, T, result_of
from penstock.client._waiting import EXECUTE_S, MARGIN_S
from penstock.codecs._coding import Coding
from penstock.messages.common import NULL, Record
from penstock.messages.control import (
    ExecutionChangePriority,
    ExecutionExplain,
    ExecutionReplay,
    ExecutionResume,
    ExecutionRunNow,
    ExecutionSetTags,
    ExecutionSuspend,
    Explanation,
)
from penstock.messages.executions import (
    ExecutionCreated,
    ExecutionEvent,
    ExecutionGet,
    ExecutionHistory,
    ExecutionList,
)
from penstock.messages.frames import Frame
from penstock.messages.search import ExecutionFilter, ExecutionRow, ExecutionSearch
from penstock.messages.statistics import FailureGroup, FailureGroups
from penstock.states import TERMINAL, ExecutionState


class ExecutionCalls:
    """Methods to create, read and steer executions. Each raises the typed error that the service replies with."""

    # `Client` sets these.
    nats: Nats
    _requester: Requester
    _coding: Coding | None

    async def submit(self, kind: str, input: Any = NULL, **options: Unpack[ExecutionOptions]) -> Run:
        """Create an execution and return a handle on it. `input` is any value that msgspec can encode."""
        request = create_request(kind, input, options)
        created = await self._requester.call(verbs.EXECUTION_CREATE, request)
        return Run(self._requester, created.execution_id, duplicate=created.duplicate)

    @overload
    async def execute(
        self,
        kind: str,
        input: Any = NULL,
        *,
        timeout: float | None = None,
        **options: Unpack[ExecutionOptions],
    ) -> Any: ...
    @overload
    async def execute(
        self,
        kind: str,
        input: Any = NULL,
        *,
        timeout: float | None = None,
        type: type[T],
        **options: Unpack[ExecutionOptions],
    ) -> T: ...
    async def execute(
        self,
        kind: str,
        input: Any = NULL,
        *,
        timeout: float | None = None,
        type: Any = Any,
        **options: Unpack[ExecutionOptions],
    ) -> Any:
        """Create an execution, wait for its end and return its result, converted to `type` if given.

        As `submit` and `Run.result`, in one request. Raises what they raise; after a `TimeoutError` (`timeout`:
        seconds) the execution goes on, and the same call with the same `idempotency_key` waits for it again.
        """
        began = time.monotonic()
        left = EXECUTE_S if timeout is None else max(0.0, min(EXECUTE_S, timeout))
        request = execute_request(kind, input, options, round(left * 1000))
        record = await self._requester.call(verbs.EXECUTION_EXECUTE, request, timeout=left + MARGIN_S)
        if record.state not in TERMINAL:
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
            record = await Run(self._requester, record.execution_id).wait(left)
        return result_of(record, type)

    @overload
    async def submit_many(
        self, items: Iterable[tuple[str, Any] | Mapping[str, Any]], **options: Unpack[ExecutionOptions]
    ) -> list[Run]: ...
    @overload
    async def submit_many(
        self,
        items: Iterable[tuple[str, Any] | Mapping[str, Any]],
        *,
        return_errors: Literal[True],
        **options: Unpack[ExecutionOptions],
    ) -> list[Run | errors.PenstockError]: ...
    async def submit_many(
        self,
        items: Iterable[tuple[str, Any] | Mapping[str, Any]],
        *,
        return_errors: bool = False,
        **options: Unpack[ExecutionOptions],
    ) -> Any:
        """Create many executions, in as few messages as possible. Return their handles in order.

        An item is `(kind, input)`, or the fields of `execution.create`. `options` are defaults for all items.
        A bad item does not stop the others: the first error is raised after all replies have come. With
        `return_errors`, nothing is raised and each error stands in the list in place of its run.
        """
        requests = [_item(item, options) for item in items]
        futures = [self._requester.send(verbs.EXECUTION_CREATE, request) for request in requests]
        runs: list[Run | errors.PenstockError] = []
        first: errors.PenstockError | None = None
        for future in futures:
            try:
                created: ExecutionCreated = await future
                runs.append(Run(self._requester, created.execution_id, duplicate=created.duplicate))
            except errors.PenstockError as error:
                first = first or error
                runs.append(error)
        if first is not None and not return_errors:
            raise first
        return runs

    def run(self, execution_id: str) -> Run:
        """Return a handle on an existing execution, without a request."""
        return Run(self._requester, execution_id)

    async def get(self, execution_id: str) -> Record:
        """Return an execution's record.

        `input` and `result` are plain Python values, decoded at the first access. `raw_input` and `raw_result` are
        their JSON, byte for byte: `msgspec.json.decode(record.raw_result, type=…)` decodes it to a type.
        """
        return await self._requester.call(verbs.EXECUTION_GET, ExecutionGet(execution_id=execution_id))

    def search(self, *, page: int = 100, **wanted: Any) -> AsyncIterator[ExecutionRow]:
        """Iterate over the executions that match all filters, newest first, without their payloads.

        `wanted` are the fields of `penstock.messages.search.ExecutionFilter`. A filter without an index looks at all
        executions, page by page.
        """
        everything = ExecutionFilter(**wanted)
        return each(
            self._requester,
            verbs.EXECUTION_SEARCH,
            lambda cursor: ExecutionSearch(filter=everything, cursor=cursor, limit=page),
        )

    async def failures(
        self,
        *,
        namespace: str | None = None,
        kind: str | None = None,
        category: str | None = None,
        limit: int = 100,
    ) -> Sequence[FailureGroup]:
        """Return groups of failures that match all filters, the latest first: at most `limit` (1000)."""
        request = FailureGroups(namespace=namespace, kind=kind, category=category, limit=limit)
        return (await self._requester.call(verbs.FAILURE_GROUPS, request)).items

    def list(
        self,
        *,
        namespace: str | None = None,
        lane: str | None = None,
        kind: str | None = None,
        state: ExecutionState | None = None,
        flow_id: str | None = None,
        tag: str | None = None,
        page: int = 100,
    ) -> AsyncIterator[Record]:
        """Iterate over the executions that match all filters, newest first, fetching `page` at a time.

        `tag` is a tag's name, or `name=value`.
        """
        return each(
            self._requester,
            verbs.EXECUTION_LIST,
            lambda cursor: ExecutionList(
                namespace=namespace,
                lane=lane,
                kind=kind,
                state=state,
                flow_id=flow_id,
                tag=tag,
                cursor=cursor,
                limit=page,
            ),
        )

    def history(self, execution_id: str) -> AsyncIterator[ExecutionEvent]:
        """Iterate over an execution's events, oldest first."""
        return each(
            self._requester,
            verbs.EXECUTION_HISTORY,
            lambda cursor: ExecutionHistory(execution_id=execution_id, cursor=cursor),
        )

    def frames(
        self, execution_id: str, *, follow: bool = False, attempt_index: int | None = None, after: int = 0
    ) -> AsyncIterator[Frame]:
        """Iterate over the frames that workers stored with `task.append_frame`, in order, after index `after`.

        With `follow`, wait for new frames too, until the execution has ended. No frame is missed or repeated.
        """
        if follow:
            return frames.followed(
                self.nats, self._requester, self._coding, execution_id, attempt_index, after
            )
        return frames.stored(self._requester, execution_id, attempt_index, after)

    async def cancel(self, execution_id: str, reason: str = "", *, grace_ms: int = 10_000) -> str:
        """Cancel an execution; a running handler has `grace_ms` to stop. Return the execution's state."""
        return await self.run(execution_id).cancel(reason, grace_ms=grace_ms)

    async def replay(
        self, execution_id: str, *, input: Any = UNSET, idempotency_key: str | None = None
    ) -> Run:
        """Run an ended execution again, as a new execution. `input` replaces the old input if given."""
        request = ExecutionReplay(
            execution_id=execution_id,
            input=UNSET if input is UNSET else raw_of(input),
            idempotency_key=idempotency_key,
        )
        created = await self._requester.call(verbs.EXECUTION_REPLAY, request)
        return Run(self._requester, created.execution_id, duplicate=created.duplicate)

    async def run_now(self, execution_id: str) -> Record:
        """Make an execution that waits for a time (run_at, a backoff, a delay) ready at once."""
        request = ExecutionRunNow(execution_id=execution_id)
        return await self._requester.call(verbs.EXECUTION_RUN_NOW, request)

    async def suspend(self, execution_id: str, reason: str = "") -> str:
        """Suspend a running execution until `resume`, and tell its worker. Return the execution's state."""
        request = ExecutionSuspend(execution_id=execution_id, reason=reason)
        return (await self._requester.call(verbs.EXECUTION_SUSPEND, request)).state

    async def resume(self, execution_id: str, reason: str = "") -> str:
        """Resume an execution suspended for any reason, with the same attempt. Return the execution's state."""
        request = ExecutionResume(execution_id=execution_id, reason=reason)
        return (await self._requester.call(verbs.EXECUTION_RESUME, request)).state

    async def change_priority(self, execution_id: str, priority: int) -> Record:
        """Change an execution's priority: -128 to 127, higher runs sooner."""
        request = ExecutionChangePriority(execution_id=execution_id, priority=priority)
        return await self._requester.call(verbs.EXECUTION_CHANGE_PRIORITY, request)

    async def set_tags(self, execution_id: str, tags: Mapping[str, str]) -> Record:
        """Replace all tags of an execution."""
        request = ExecutionSetTags(execution_id=execution_id, tags=dict(tags))
        return await self._requester.call(verbs.EXECUTION_SET_TAGS, request)

    async def explain(self, execution_id: str) -> Explanation:
        """Explain why an execution does not run now, and what to do about it."""
        request = ExecutionExplain(execution_id=execution_id)
        return await self._requester.call(verbs.EXECUTION_EXPLAIN, request)


def _item(item: tuple[str, Any] | Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    if isinstance(item, tuple):
        return create_request(item[0], item[1], options)
    fields: dict[str, Any] = {**options, **item}
    return create_request(fields.pop("kind"), fields.pop("input", NULL), fields)
