"""execution.cancel: cancel an execution at once, or ask the worker that holds it to stop."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.machine import Machine
from penstock.machine.ops import cancel_reconciler as ops
from penstock.messages.cancellation import ExecutionCancel


class Executions:
    """Handlers that cancel single executions."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def cancel(self, call: Call[ExecutionCancel]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Cancel.of(item) for item in call.items])
