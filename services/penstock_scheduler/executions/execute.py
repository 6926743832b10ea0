"""execution.execute: create an execution and wait for its end, in one request.

The state machine hears of the caller in the step that creates the execution. So nothing is sent but the request and,
by the service whose call ends the execution, the record.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from penstock.bus.calls import Call
from penstock.errors import PenstockError
from penstock.messages.common import Record
from penstock.messages.executions import ExecutionCreate, ExecutionExecute
from penstock_scheduler.executions.verbs import Executions
from penstock_scheduler.executions.waits import Waits, answer_each


class Execute:
    """The handler of `execution.execute`."""

    def __init__(self, executions: Executions, waits: Waits) -> None:
        self._executions = executions
        self._waits = waits

    async def execute(self, call: Call[ExecutionExecute]) -> Sequence[Any] | None:
        return await answer_each(call, self._execute)

    async def _execute(self, item: ExecutionExecute, reply: str | None) -> Record | PenstockError | None:
        """Return the record, or None if the caller has been sent it. reply: the subject that he expects it on."""
        create = item if item.idempotency_key is None else _create(item)
        made = await self._executions.create_awaited(create, reply)
        if isinstance(made, PenstockError):
            return made
        # A duplicate may have ended: it is looked at first.
        known = reply is not None and not made.duplicate
        return await self._waits.ended(made.execution_id, item.wait_ms, reply, known=known)


def _create(item: ExecutionExecute) -> ExecutionCreate:
    """Return the request as one of `execution.create`, whose idempotency keys are the same."""
    fields = structs.asdict(item)
    del fields["wait_ms"]
    return ExecutionCreate(**fields)
