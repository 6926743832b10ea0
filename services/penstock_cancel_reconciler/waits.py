"""flow.cancel with wait: parks until every member that was to stop has stopped.

The end of the last one gives a `flow_done` hint. It may be lost, so a parked wait looks again every sweep.
"""

import asyncio
from typing import Any

from penstock.machine import Machine
from penstock.machine.ops import cancel_reconciler as ops


class Waits:
    """Who waits for which cancelled flow, in this process."""

    def __init__(self, machine: Machine, sweep_s: float) -> None:
        self._machine = machine
        self._sweep_s = sweep_s
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._draining = False

    def done(self, _partition: int, flow_ids: Any) -> None:
        """The `flow_done` hint."""
        for flow_id in flow_ids:
            for event in self._waiting.get(flow_id, ()):
                event.set()

    async def drain(self) -> None:
        """Lets go of everyone: what is not stopped yet stays in the backlog."""
        self._draining = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def wait(self, flow_id: str, seconds: float) -> bool:
        """Whether all have stopped within this time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        # Listening begins before the first look: an end in between is not missed.
        event = asyncio.Event()
        waiting = self._waiting.setdefault(flow_id, set())
        waiting.add(event)
        try:
            while True:
                event.clear()
                progress = await self._machine.run(ops.FlowCancelProgress(flow_id=flow_id))
                if not progress.more and not progress.left:
                    return True
                left = deadline - loop.time()
                if left <= 0 or self._draining:
                    return False
                try:
                    async with asyncio.timeout(min(left, self._sweep_s)):
                        await event.wait()
                except TimeoutError:
                    pass
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(flow_id, None)
