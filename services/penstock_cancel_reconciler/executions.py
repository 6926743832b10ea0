"""execution.cancel: at once, or by asking the worker that holds it."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.endpoints import Call
from penstock.ids import partition_of
from penstock.messages.cancellation import ExecutionCancel
from penstock.store import Store


class Executions:
    """Handlers about single executions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def cancel(self, call: Call[ExecutionCancel]) -> Sequence[Any]:
        return await self._store.call_many(
            [
                (
                    partition_of(item.execution_id),
                    "cancel",
                    # Written out: a request leaves its defaults off, and the state machine knows none.
                    {"execution_id": item.execution_id, "reason": item.reason, "grace_ms": item.grace_ms},
                )
                for item in call.items
            ]
        )
