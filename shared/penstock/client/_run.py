"""`Run`: a handle on one execution."""

from typing import Any, TypeVar, overload

import msgspec

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._errors import ExecutionCanceled, ExecutionFailed
from penstock.client._waiting import wait_for_end
from penstock.messages.cancellation import ExecutionCancel
from penstock.messages.common import Record, readable
from penstock.messages.executions import ExecutionGet, ExecutionWait
from penstock.states import TERMINAL

T = TypeVar("T")


class Run:
    """A handle on one execution: `run.execution_id`, `await run.result()`."""

    __slots__ = ("_requester", "duplicate", "execution_id")

    def __init__(self, requester: Requester, execution_id: str, *, duplicate: bool = False) -> None:
        self._requester = requester
        self.execution_id = execution_id
        # Whether the execution existed before, made with the same idempotency key.
        self.duplicate = duplicate

    def __repr__(self) -> str:
        return f"Run({self.execution_id!r})"

    @overload
    async def result(self, timeout: float | None = None) -> Any: ...
    @overload
    async def result(self, timeout: float | None = None, *, type: type[T]) -> T: ...
    async def result(self, timeout: float | None = None, *, type: Any = Any) -> Any:
        """Wait for the execution to end and return its result, converted to `type` if given.

        Raises `ExecutionFailed`, `ExecutionCanceled`, or `TimeoutError` after `timeout` seconds. After a
        `TimeoutError` the execution goes on, and `result` can be called again.
        """
        return result_of(await self.wait(timeout), type)

    async def wait(self, timeout: float | None = None) -> Record:
        """Wait until the execution has ended in any way, and return its record. Raises `TimeoutError`."""
        return await wait_for_end(
            self._requester,
            verbs.EXECUTION_WAIT,
            lambda wait_ms: ExecutionWait(execution_id=self.execution_id, wait_ms=wait_ms),
            lambda record: record.state in TERMINAL,
            lambda record: f"{record.kind} {self.execution_id} is {record.state}",
            timeout,
        )

    async def get(self) -> Record:
        """Return the execution's record, as `Client.get` does."""
        return await self._requester.call(verbs.EXECUTION_GET, ExecutionGet(execution_id=self.execution_id))

    async def status(self) -> str:
        """Return the execution's state."""
        return (await self.get()).state

    async def cancel(self, reason: str = "", *, grace_ms: int = 10_000) -> str:
        """Cancel the execution; a running handler has `grace_ms` to stop. Return the execution's state."""
        request = ExecutionCancel(execution_id=self.execution_id, reason=reason, grace_ms=grace_ms)
        return (await self._requester.call(verbs.EXECUTION_CANCEL, request)).state


def result_of(record: Record, type: Any) -> Any:
    """Return the result of an execution that has ended, converted to `type`. Raise as `Run.result` does."""
    if record.state == "failed":
        raise ExecutionFailed(record)
    if record.state == "canceled":
        raise ExecutionCanceled(record)
    return msgspec.json.decode(readable(record, "raw_result"), type=type)
