"""`Worker`: settings, registration of handlers and hooks, start and stop. Its work is in `_session.py`."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from penstock import __version__, errors
from penstock.bus.connection import Connection, connect, leave
from penstock.bus.identity import Identity
from penstock.codecs import Codecs
from penstock.ids import WORKER_OF
from penstock.messages.executions import WorkNext
from penstock.worker._health import Health
from penstock.worker._hooks import Hook, Hooks, Lifespan, Middleware
from penstock.worker._invoke import Handler
from penstock.worker._process import exit_at_once, new_worker_id, run_as_process, stopped_by_signals
from penstock.worker._session import Session, Stop, WorkerConfig
from penstock.worker.durable.run import KEEP_WARM_S, DurableOptions, StepThreads
from penstock.worker.durable.versions import accepted, checked

Function = TypeVar("Function", bound=Callable[..., Any])

log: Final = logging.getLogger("penstock.worker")


class Worker:
    """A worker that runs handlers for the tasks of its lanes.

    >>> worker = Worker("nats://localhost:4222", lanes=["default"], concurrency=32)
    >>> @worker.handler("mail.send")
    ... async def send(task: Task, to: str, subject: str) -> Receipt: ...
    >>> worker.main()

    * **concurrency** - How many handlers run at a time. From 16 on, as many tasks more are taken while they are brief.
    * **lease_ttl** - Seconds after which a dead worker's tasks go to another worker.
    * **grace** - Seconds that running handlers have to finish after SIGTERM.
    * **park** - Seconds that a request for work waits at a scheduler. If that is killed, the worker idles as long.
    * **version** - The version of your own worker, as `worker.list` shows it.
    * **codec** - One of `penstock.codecs` or a list: what payloads pass through. The clients need the same.
    """

    def __init__(
        self,
        url: str = "nats://localhost:4222",
        lanes: Sequence[str] = ("default",),
        concurrency: int = 32,
        *,
        capabilities: Sequence[str] = (),
        worker_id: str | None = None,
        lease_ttl: float = 30.0,
        grace: float = 30.0,
        park: float = 5.0,
        root: str = "penstock",
        credentials: str | None = None,
        version: str = __version__,
        codec: Codecs = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if isinstance(lanes, str) or not lanes:
            raise ValueError("lanes must be a list with at least one name")
        self.worker_id = worker_id or new_worker_id()
        self.concurrency = concurrency
        self.root = root
        self._url = url
        self._credentials = credentials
        self._grace = grace
        self._lease_ttl = lease_ttl
        self._ask = WorkNext(
            worker_id=self.worker_id,
            lanes=list(lanes),
            capabilities=list(capabilities),
            wait_ms=round(park * 1000),
            lease_ttl_ms=round(lease_ttl * 1000),
            start=True,
        )
        self._version = version
        self._codec: Codecs = codec
        self._handlers: dict[str, Handler] = {}
        self._threads = StepThreads(concurrency)
        self._hooks = Hooks()
        self._stop = Stop()
        self._nats: Connection | None = None
        self._session: Session | None = None
        self._stopped = False
        self.ready = asyncio.Event()

    @property
    def url(self) -> str:
        """The NATS URL that the worker was created with."""
        return self._url

    @property
    def credentials(self) -> str | None:
        """The path of the NATS credentials file that the worker was created with."""
        return self._credentials

    def at(
        self,
        url: str,
        *,
        root: str = "penstock",
        credentials: str | None = None,
        worker_id: str | None = None,
    ) -> "Worker":
        """Return a copy of this worker, with its handlers and hooks, for another Penstock (in a test, for example)."""
        other = Worker(
            url,
            self._ask.lanes,
            self.concurrency,
            capabilities=self._ask.capabilities,
            worker_id=worker_id,
            lease_ttl=self._lease_ttl,
            grace=self._grace,
            park=self._ask.wait_ms / 1000,
            root=root,
            credentials=credentials,
            version=self._version,
            codec=self._codec,
        )
        other._handlers, other._hooks, other._threads = self._handlers, self._hooks, self._threads
        return other

    def handler(
        self,
        kind: str,
        *,
        version: str | None = None,
        accepts: str | Sequence[str] | None = None,
        keep_warm: float = KEEP_WARM_S,
    ) -> Callable[[Function], Function]:
        """Register an async or sync function for a kind. `penstock.worker._invoke` describes its parameters.

        The worker asks for work of the kinds that have a handler when it starts, and gets no other.

        The function's return value is the result. It may raise `Retry`, `Fail` or `Suspend`. Any other exception
        fails the attempt, with the exception's class name in snake_case as category.

        For durable functions (docs/durable-functions.md):

        * **version** - The version of this code: recorded for the executions that it begins (`task.began`).
        * **accepts** - Versions whose executions this code goes on with: a list, or ">=2". Executions that it begins
          then go to no worker that does not accept their version.
        * **keep_warm** - Seconds. A wait that is not longer is spent in memory, with the lease.
        """
        taken = accepted(version if version is None else checked(version), accepts)

        def register(function: Function) -> Function:
            if kind in self._handlers:
                raise ValueError(f"kind {kind!r} has a handler already")
            options = DurableOptions(
                version, tuple(taken), keep_warm, digests=not self._codec, threads=self._threads
            )
            self._handlers[kind] = Handler(kind, function, options)
            return function

        return register

    def middleware(self, function: Middleware) -> Middleware:
        """Register `async (task, call_next)`, which runs around every handler: `return await call_next(task)`.

        The middleware's return value or exception replaces the handler's. The first one registered is the outermost.
        """
        self._hooks.middleware.append(function)
        return function

    def lifespan(self, function: Lifespan) -> Lifespan:
        """Register an async context manager, entered before the first task and exited after the last.

        Handlers get the value that it yields as `task.context`.
        """
        if self._hooks.lifespan is not None:
            raise ValueError("there is a lifespan already")
        self._hooks.lifespan = function
        return function

    def on_startup(self, function: Hook) -> Hook:
        """Register a function, async or sync, to run before the first task (and before the lifespan)."""
        self._hooks.startup.append(function)
        return function

    def on_shutdown(self, function: Hook) -> Hook:
        """Register a function, async or sync, to run after the last task (and after the lifespan)."""
        self._hooks.shutdown.append(function)
        return function

    def health(self) -> Health:
        """Return the worker's health now. Cheap enough for a readiness probe, a metrics endpoint or a log line."""
        session, nats = self._session, self._nats
        leases = list(session.leases.held.values()) if session else []
        return Health(
            worker_id=self.worker_id,
            status="stopped" if self._stopped else session.status if session else "starting",
            connected=nats is not None and nats.is_connected,
            running=session.runner.active if session else 0,
            unhealthy_leases=sum(not lease.healthy for lease in leases),
        )

    def stop(self) -> None:
        """Begin to drain, as on SIGTERM. The second call stops without grace."""
        self._stop.ask()

    def main(self) -> None:
        """Run the worker until SIGTERM or SIGINT, with uvloop if it is installed, in a process of its own.

        What exists now is left out of Python's garbage collections, and these come more rarely (`gc.freeze`,
        `gc.set_threshold`). In a process that has more to do than to work, await `run`.
        """
        run_as_process(self._live())

    async def _live(self) -> int:
        """Run the worker and return the exit code for its process."""
        code = 0
        try:
            await self.run()
        except errors.PenstockError as error:
            log.error("worker %s cannot go on: %s", self.worker_id, error)
            code = 1
        runner = None if self._session is None else self._session.runner
        if runner is not None and (runner.running or runner.in_threads or self._threads.busy):
            # Python would wait for these handlers forever. Exit now; their leases are left to expire.
            exit_at_once(code)
        return code

    async def run(self, *, handle_signals: bool = True) -> None:
        """Work until `stop()`, SIGTERM or SIGINT; then drain.

        Draining takes no new work and gives back tasks that were leased but not begun. Running handlers finish
        within the grace time; the leases of the others expire, and their tasks go to another worker.

        Raises `invalid_request` if no handler is registered or the service refuses the worker's request for work as
        invalid, `not_permitted` if its credentials are for other lanes, and `timeout` if the server has closed the
        connection for good (a broken connection is opened again).
        """
        if not self._handlers:
            raise errors.invalid(
                "kinds", "the worker has no handler: register one with @worker.handler(kind)"
            )
        with stopped_by_signals(self.stop) if handle_signals else contextlib.nullcontext():
            nats = await self._connect()
            if nats is not None:
                self._nats, self._stopped = nats, False
                self._belong_to(nats.identity)
                self._threads.open()
                try:
                    async with self._hooks.open() as context:
                        self._session = Session(nats, self._config(), self._stop, context)
                        await self._session.work(self.ready)
                finally:
                    self._stopped = True
                    self._threads.close()
                    await leave(nats)
                    log.info("worker %s has stopped", self.worker_id)

    def _belong_to(self, user: Identity | None) -> None:
        """Begin the worker's id with its user's name, as services demand in a secured deployment."""
        if user is not None and not self.worker_id.startswith(user.name + WORKER_OF):
            self.worker_id = f"{user.name}{WORKER_OF}{self.worker_id}"
            self._ask.worker_id = self.worker_id

    def _config(self) -> WorkerConfig:
        kinds = sorted(kind for handler in self._handlers.values() for kind in handler.kinds)
        return WorkerConfig(
            url=self._url,
            credentials=self._credentials,
            root=self.root,
            ask=msgspec.structs.replace(self._ask, kinds=kinds),
            concurrency=self.concurrency,
            lease_ttl=self._lease_ttl,
            grace=self._grace,
            version=self._version,
            codec=self._codec,
            handlers=self._handlers,
            hooks=self._hooks,
        )

    async def _connect(self) -> Connection | None:
        """Connect to NATS, however long that takes. Return None if the worker is stopped before."""
        name = f"penstock-worker {self.worker_id}"
        connecting = asyncio.ensure_future(connect(self._url, name, self._credentials, wait=True))
        stopping = asyncio.ensure_future(self._stop.asked.wait())
        try:
            await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await connecting if connecting.done() else None
        finally:
            connecting.cancel()
            stopping.cancel()
