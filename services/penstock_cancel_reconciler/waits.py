"""flow.cancel with wait: park until every member that was to stop has stopped.

The end of the last member sends a `flow_done` hint. A hint may be lost, so a parked call looks again every sweep.
"""

import asyncio
from typing import Any

from penstock.machine import Machine
from penstock.machine.ops import cancel_reconciler as ops


class Waits:
    """The calls parked in this process, by the cancelled flow that they wait for."""

    def __init__(self, machine: Machine, sweep_s: float) -> None:
        self._machine = machine
        self._sweep_s = sweep_s
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._draining = False

    def done(self, _partition: int, flow_ids: Any) -> None:
        """Handle the `flow_done` hint: wake the calls parked for these flows."""
        for flow_id in flow_ids:
            for event in self._waiting.get(flow_id, ()):
                event.set()

    async def drain(self) -> None:
        """Release all parked calls. Members not stopped yet stay in the backlog."""
        self._draining = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def wait(self, flow_id: str, seconds: float) -> bool:
        """Wait up to `seconds`. Return whether all members have stopped."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        # Register before the first look, so that an end in between is not missed.
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
