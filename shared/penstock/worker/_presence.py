"""Registers the worker with the lease-keeper, sends heartbeats, and learns from the replies when to drain.

Leases do not depend on heartbeats. The registry that people see does, and the worker's estimate of Valkey's clock.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final, Literal

from penstock import errors, verbs
from penstock.bus.requester import Requester
from penstock.clock import ValkeyClock
from penstock.messages.executions import WorkNext
from penstock.messages.workers import Holding, Schema, WorkerHeartbeat, WorkerInfo, WorkerRegister
from penstock.verbs import Verb

log: Final = logging.getLogger("penstock.worker")

HEARTBEAT_S: Final = 10.0
AGAIN_S: Final = 1.0
GOODBYE_S: Final = 1.0


class Presence:
    """Keeps one worker's entry in the registry."""

    def __init__(
        self,
        requester: Requester,
        ask: WorkNext,
        version: str,
        slots: int,
        schemas: dict[str, Schema],
        clock: ValkeyClock,
        status: Callable[[], tuple[int, list[Holding]]],
        on_drain: Callable[[], None],
    ) -> None:
        """status: returns the longest time that the event loop did not turn (ms) since the last call, and what runs."""
        self._requester = requester
        self._worker_id = ask.worker_id
        self._about: dict[str, Any] = {
            "worker_id": ask.worker_id,
            "lanes": ask.lanes,
            "capabilities": ask.capabilities,
            "kinds": ask.kinds,
            "version": version,
            "slots": slots,
        }
        self._schemas = schemas
        self._clock = clock
        self._status = status
        self._on_drain = on_drain
        self.registered = asyncio.Event()

    async def run(self) -> None:
        """Register, then send a heartbeat every ten seconds, until cancelled."""
        while True:
            try:
                await (self._beat("active") if self.registered.is_set() else self._register())
            except errors.PenstockError as error:
                log.debug("worker %s could not be registered: %s", self._worker_id, error)
            await asyncio.sleep(HEARTBEAT_S if self.registered.is_set() else AGAIN_S)

    async def say(self, status: Literal["draining", "stopped"]) -> None:
        """Tell the registry a new status. Best effort: without it, the registry finds out later."""
        if self.registered.is_set():
            with contextlib.suppress(errors.PenstockError):
                await self._beat(status, GOODBYE_S)

    async def _register(self) -> None:
        await self._ask_keeper(verbs.WORKER_REGISTER, WorkerRegister(**self._about, schemas=self._schemas))
        self.registered.set()

    async def _beat(
        self, status: Literal["active", "draining", "stopped"], timeout: float | None = None
    ) -> None:
        lag_ms, holds = self._status()
        heartbeat = WorkerHeartbeat(**self._about, status=status, loop_lag_ms=lag_ms, holds=holds)
        reply = await self._ask_keeper(verbs.WORKER_HEARTBEAT, heartbeat, timeout)
        if status == "active" and reply.status == "draining":
            self._on_drain()

    async def _ask_keeper(
        self,
        verb: Verb[Any, WorkerInfo],
        request: WorkerRegister | WorkerHeartbeat,
        timeout: float | None = None,
    ) -> WorkerInfo:
        """Send a request and return the worker's registry entry. Its `seen_at` is also a reading of Valkey's clock."""
        sent = time.monotonic()
        reply = await self._requester.call(verb, request, timeout=timeout)
        self._clock.learn(reply.seen_at, sent, time.monotonic())
        return reply
