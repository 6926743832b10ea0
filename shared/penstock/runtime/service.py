"""What a service is made of: the `Context` that it gets, the `Service` that it gives."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from nats.js import JetStreamContext

from penstock.bus.connection import Connection
from penstock.bus.consumer import Consumer
from penstock.bus.endpoints import Handler
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
    """Background tasks: kept from the garbage collector, their exceptions logged, cancelled at drain."""

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
        """Waits for all of them, also for those that they start."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.finish()


@dataclass
class Context:
    """What a service is built from."""

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
        """Runs this beside all else: its exception is logged, it is cancelled when the service stops."""
        return self.tasks.spawn(work)

    def listen(self, topic: str, callback: Listener) -> None:
        """Calls `callback(partition, value)` for each hint on this topic, from here or another process.

        Topics and values: the table of hints in docs/architecture.md. To be called while building.
        """
        self.wakes.listen(topic, callback)


Loop = Callable[[], Awaitable[None]]


@dataclass
class Service:
    """The table of contents that a service's `build` returns."""

    name: str
    endpoints: dict[Verb[Any, Any], Handler] = field(default_factory=dict[Verb[Any, Any], Handler])
    consumers: list[Consumer] = field(default_factory=list[Consumer])
    background: list[Callable[[], Awaitable[None]]] = field(
        default_factory=list[Callable[[], Awaitable[None]]]
    )
    """Long-running loops; started again when they fail, cancelled at drain."""
    start: Callable[[], Awaitable[None]] | None = None
    """Called before the loops and the first request: what must stand when the service says that it is ready."""
    drain: Callable[[], Awaitable[None]] | None = None
    """Called first when the service is to stop: let go of what is parked (an empty `work.next`)."""
    release: Callable[[], None] | None = None
    """Called when this instance leaves its share to others, for it cannot reach Valkey: let go of what is parked."""
    close: Callable[[], Awaitable[None]] | None = None
    """Called last, while NATS and Valkey are still there."""
    due: bool = True
    """Whether the service has a `due` command."""


Build = Callable[[Context], Service]
