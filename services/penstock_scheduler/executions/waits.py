"""execution.wait: park until an execution ends. execution.execute does so after it has created one (execute.py).

The state machine remembers the caller (lua/execution/waiting.lua). The service whose call ends the execution answers
him (penstock.runtime.ends) and tells the schedulers so: the hint `answered`. What it cannot answer, calls for several
executions and those for large ones, is answered here: the hint `done` tells to look again. Hints may be lost, so a
parked call looks again every sweep.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from penstock.bus.calls import Call
from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.messages.common import Record
from penstock.messages.executions import ExecutionWait
from penstock.states import TERMINAL
from penstock.verbs import Req


async def answer_each(
    call: Call[Req], wait: Callable[[Req, str | None], Awaitable[Record | PenstockError | None]]
) -> Sequence[Any] | None:
    """Wait for each item of a call. wait(item, reply): return its record, or None if that was sent to the subject
    `reply`, which only a caller of one item has."""
    if len(call.items) == 1:
        answer = await wait(call.items[0], call.reply_to or None if call.single else None)
        return None if answer is None else [answer]
    return await asyncio.gather(*(wait(item, None) for item in call.items), return_exceptions=True)


class _Parked(msgspec.Struct, eq=False):
    """One caller that waits. The future's result is whether he has been answered; if not, it is time to look again."""

    reply: str | None
    told: "asyncio.Future[bool]"

    def tell(self, answered: bool) -> None:
        if not self.told.done():
            self.told.set_result(answered)


class Waits:
    """The calls parked in this process, by the execution that they wait for."""

    def __init__(self, machine: Machine, sweep_s: float) -> None:
        self._machine = machine
        self._sweep_s = sweep_s
        self._waiting: dict[str, set[_Parked]] = {}
        self._stopping = False

    def drain(self) -> None:
        """Answer all parked calls with the record as it is; the callers then ask another scheduler."""
        self._stopping = True
        self.done(0, self._waiting)

    def done(self, _partition: int, ids: Any) -> None:
        """Handle the `done` hint: calls parked for these executions look again."""
        for execution_id in ids:
            for parked in self._waiting.get(execution_id, ()):
                parked.tell(False)

    def answered(self, _partition: int, ended: Any) -> None:
        """Handle the `answered` hint: these executions have ended, and these reply subjects were sent the record."""
        for execution_id, replies in ended:
            for parked in self._waiting.get(execution_id, ()):
                parked.tell(parked.reply in replies)

    async def wait(self, call: Call[ExecutionWait]) -> Sequence[Any] | None:
        return await answer_each(call, lambda item, reply: self.ended(item.execution_id, item.wait_ms, reply))

    async def ended(
        self, execution_id: str, wait_ms: int, reply: str | None, *, known: bool = False
    ) -> Record | None:
        """Return the record at the execution's end or after `wait_ms`, or None if the caller has been sent it.

        reply: the subject that he expects it on. known: the state machine knows that, and that it has not ended. Raise
        PenstockError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_ms / 1000
        while True:
            waiting = self._waiting.setdefault(execution_id, set())
            # Park before the look, so that an end in between is not missed.
            parked = _Parked(reply, loop.create_future())
            waiting.add(parked)
            timer = None
            try:
                left = deadline - loop.time()
                if not known or left <= 0 or self._stopping:
                    record = await self._machine.run(ops.Wait(execution_id=execution_id, reply=reply))
                    left = deadline - loop.time()
                    if record.state in TERMINAL or left <= 0 or self._stopping:
                        return record
                known = False
                timer = loop.call_later(min(left, self._sweep_s), parked.tell, False)
                if await parked.told:
                    return None
            finally:
                if timer is not None:
                    timer.cancel()
                waiting.discard(parked)
                if not waiting:
                    self._waiting.pop(execution_id, None)
