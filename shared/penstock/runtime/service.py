"""The parts of a service: the `Context` that its `build` gets, and the `Service` that its `build` returns."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from nats.js import JetStreamContext

from penstock.bus.calls import Handler
from penstock.bus.connection import Connection
from penstock.bus.consumer import Consumer
from penstock.bus.hints import Hints
from penstock.machine import Machine
from penstock.runtime.due import DueLoop
from penstock.runtime.health import Health
from penstock.runtime.logging import Log
from penstock.runtime.membership import Membership
from penstock.runtime.metrics import Metrics
from penstock.runtime.settings import Settings
from penstock.runtime.wakes import Listener, Wakes
from penstock.verbs import Verb


class Tasks:
    """Background tasks: referenced until they end, their exceptions logged, cancelled when the service stops."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=work.__qualname__)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a background task failed", task=task.get_name(), exc_info=error)

    async def finish(self) -> None:
        """Wait for all tasks, including tasks that they spawn meanwhile."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.finish()


@dataclass
class Context:
    """The connections and parts of the runtime from which a service is built."""

    settings: Settings
    nats: Connection
    js: JetStreamContext
    machine: Machine
    hints: Hints
    due: DueLoop
    log: Log
    instance: str
    metrics: Metrics
    membership: Membership
    health: Health
    wakes: Wakes
    tasks: Tasks

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a background task. Its exception is logged, and it is cancelled when the service stops."""
        return self.tasks.spawn(work)

    def listen(self, topic: str, callback: Listener) -> None:
        """Call `callback(partition, value)` for each hint on this topic, from this or another process.

        The table of hints in docs/architecture.md lists topics and values. Only `build` may call `listen`.
        """
        self.wakes.listen(topic, callback)


Loop = Callable[[], Awaitable[None]]


@dataclass
class Service:
    """The parts of one service, as its `build` returns them."""

    name: str
    endpoints: dict[Verb[Any, Any], Handler] = field(default_factory=dict[Verb[Any, Any], Handler])
    consumers: list[Consumer] = field(default_factory=list[Consumer])
    background: list[Callable[[], Awaitable[None]]] = field(
        default_factory=list[Callable[[], Awaitable[None]]]
    )
    """Long-running loops: restarted when they fail, cancelled when the service stops."""
    start: Callable[[], Awaitable[None]] | None = None
    """Called before the loops and the first request, to prepare what a ready service must have."""
    drain: Callable[[], Awaitable[None]] | None = None
    """Called when the service stops, before running requests finish: answer parked requests (an empty `work.next`)."""
    release: Callable[[], None] | None = None
    """Called when this instance cannot reach Valkey and leaves its requests to others: answer parked requests."""
    close: Callable[[], Awaitable[None]] | None = None
    """Called last, while NATS and Valkey are still connected."""
    due: bool = True
    """Whether the service has a `due` command."""


Build = Callable[[Context], Service]
