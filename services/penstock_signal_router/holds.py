"""execution.suspend, execution.resume and signal.send: an operator suspends, resumes and signals executions."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.ids import uuid7
from penstock.machine import Machine
from penstock.machine.ops import signal_router as ops
from penstock.messages.control import ExecutionResume, ExecutionSuspend
from penstock.messages.signals import SignalSend


class Holds:
    """Handlers of an operator's verbs. Their requests carry no fence and no token."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def suspend(self, call: Call[ExecutionSuspend]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Hold.of(item) for item in call.items])

    async def resume(self, call: Call[ExecutionResume]) -> Sequence[Any]:
        return await self._machine.run_many([ops.Resume.of(item) for item in call.items])

    async def send(self, call: Call[SignalSend]) -> Sequence[Any]:
        return await self._machine.run_many(
            [ops.Send.of(item, signal_id=item.signal_id or uuid7()) for item in call.items]
        )
