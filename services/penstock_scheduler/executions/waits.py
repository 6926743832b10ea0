"""execution.wait: park until an execution ends.

The state machine marks the execution as waited for. Its end sends all schedulers a `done` hint: the ended execution,
or only its id if the execution is large. A hint may be lost, so a parked call looks again every sweep.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import scheduler as ops
from penstock.machine.replies import inside
from penstock.messages.common import Record
from penstock.messages.executions import ExecutionWait
from penstock.states import TERMINAL

_ended: Final = inside(Record)


class Waits:
    """The calls parked in this process, by the execution that they wait for."""

    def __init__(self, machine: Machine, sweep_s: float) -> None:
        self._machine = machine
        self._sweep_s = sweep_s
        self._waiting: dict[str, set[asyncio.Future[Record | None]]] = {}
        self._stopping = False

    def drain(self) -> None:
        """Answer all parked calls with the record as it is; the callers then ask another scheduler."""
        self._stopping = True
        for execution_id in self._waiting:
            self._tell(execution_id, None)

    def done(self, _partition: int, ended: Any) -> None:
        """Handle the `done` hint: wake the calls parked for these executions."""
        for each in ended:
            if isinstance(each, str):
                self._tell(each, None)
            else:
                self._tell(each["execution_id"], msgspec.convert(each, _ended))

    async def wait(self, call: Call[ExecutionWait]) -> Sequence[Any]:
        if len(call.items) == 1:
            return [await self._wait(call.items[0])]
        return await asyncio.gather(*map(self._wait, call.items), return_exceptions=True)

    def _tell(self, execution_id: str, record: Record | None) -> None:
        for future in self._waiting.get(execution_id, ()):
            if not future.done():
                future.set_result(record)

    async def _wait(self, item: ExecutionWait) -> Record | PenstockError:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + item.wait_ms / 1000
        while True:
            waiting = self._waiting.setdefault(item.execution_id, set())
            # Register before the look, so that an end in between is not missed.
            told: asyncio.Future[Record | None] = loop.create_future()
            waiting.add(told)
            try:
                record = await self._machine.run(ops.Wait(execution_id=item.execution_id))
                left = deadline - loop.time()
                if record.state in TERMINAL or left <= 0 or self._stopping:
                    return record
                async with asyncio.timeout(min(left, self._sweep_s)):
                    ended = await told
                if ended is not None:
                    return ended
            except TimeoutError:
                pass
            finally:
                waiting.discard(told)
                if not waiting:
                    self._waiting.pop(item.execution_id, None)
