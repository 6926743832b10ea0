"""execution.wait: parks until an execution ends.

The state machine marks an execution that is waited for, and its end gives a `done` hint to all schedulers.
A hint may be lost, so a parked wait looks again every sweep.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.messages.executions import ExecutionWait
from penstock.states import TERMINAL
from penstock.store import Store
from penstock_scheduler import views


class Waits:
    """Who waits for which execution, in this process."""

    def __init__(self, store: Store, sweep_s: float) -> None:
        self._store = store
        self._sweep_s = sweep_s
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._stopping = False

    def drain(self) -> None:
        """Lets those who wait go, with the record as it is: they ask another scheduler."""
        self._stopping = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    def done(self, _partition: int, execution_ids: Any) -> None:
        """The `done` hint."""
        for execution_id in execution_ids:
            for event in self._waiting.get(execution_id, ()):
                event.set()

    async def wait(self, call: Call[ExecutionWait]) -> Sequence[Any]:
        if len(call.items) == 1:
            return [await self._wait(call.items[0])]
        return await asyncio.gather(*map(self._wait, call.items), return_exceptions=True)

    async def _wait(self, item: ExecutionWait) -> dict[str, Any] | PenstockError:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + item.wait_ms / 1000
        partition = partition_of(item.execution_id)
        # Listening begins before the first look: an end in between is not missed.
        event = asyncio.Event()
        waiting = self._waiting.setdefault(item.execution_id, set())
        waiting.add(event)
        try:
            while True:
                event.clear()
                record = await self._store.call(partition, "wait", item)
                left = deadline - loop.time()
                if record["state"] in TERMINAL or left <= 0 or self._stopping:
                    return views.execution(record)
                try:
                    async with asyncio.timeout(min(left, self._sweep_s)):
                        await event.wait()
                except TimeoutError:
                    pass
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(item.execution_id, None)
