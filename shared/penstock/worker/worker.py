"""`Worker`: handlers by kind, and the life of the process that runs them."""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
from nats.aio.msg import Msg

from penstock import __version__, errors
from penstock.bus.connection import Connection, connect, leave
from penstock.bus.requester import Requester, listen
from penstock.messages.executions import WorkNext
from penstock.messages.leases import TaskMessage
from penstock.worker.health import Health
from penstock.worker.hooks import Hook, Hooks, Lifespan, Middleware
from penstock.worker.intake import Intake
from penstock.worker.invoke import Handler
from penstock.worker.lease import Leases
from penstock.worker.presence import Presence
from penstock.worker.runner import Runner

Function = TypeVar("Function", bound=Callable[..., Any])

log: Final = logging.getLogger("penstock.worker")


class _Push(msgspec.Struct):
    """What is pushed to a worker: `{"type": "cancel", execution_id, lease_id}` or `{"type": "drain"}`."""

    type: str
    lease_id: str | None = None


_decode_push: Final = msgspec.json.Decoder(_Push).decode


class Worker:
    """Runs handlers for the work of some lanes.

    >>> worker = Worker("nats://localhost:4222", lanes=["default"], concurrency=32)
    >>> @worker.handler("mail.send")
    ... async def send(task: Task, to: str, subject: str) -> Receipt: ...
    >>> worker.main()

    `lease_ttl`: seconds after which the work of a dead worker goes to another one. `grace`: seconds
    that running handlers have to finish after SIGTERM. `park`: seconds that one request for work waits
    at the scheduler; also how long a worker may sit idle when that scheduler is killed. `version`: yours, as
    `worker.list` shows it.
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
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if isinstance(lanes, str) or not lanes:
            raise ValueError("lanes must be a list with at least one name")
        self.worker_id = worker_id or _new_worker_id()
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
        self._handlers: dict[str, Handler] = {}
        self._hooks = Hooks()
        # Tasks beyond the free slots: only a late reply brings them.
        self._surplus: deque[TaskMessage] = deque()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._runner: Runner | None = None
        self._intake: Intake | None = None
        self._leases: Leases | None = None
        self._nats: Connection | None = None
        self._status: Literal["starting", "working", "draining", "stopped"] = "starting"
        self.ready = asyncio.Event()

    @property
    def url(self) -> str:
        """The NATS that it was made for."""
        return self._url

    @property
    def credentials(self) -> str | None:
        """The path of the NATS credentials file that it was made with."""
        return self._credentials

    def at(
        self,
        url: str,
        *,
        root: str = "penstock",
        credentials: str | None = None,
        worker_id: str | None = None,
    ) -> "Worker":
        """A new worker like this one, with its handlers and hooks, for another Penstock: that of a test, say."""
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
        )
        other._handlers, other._hooks = self._handlers, self._hooks
        return other

    def handler(self, kind: str) -> Callable[[Function], Function]:
        """Register a function, async or sync, for a kind (see `penstock.worker.invoke` for its parameters).

        What it returns is the result. It may raise `Retry`, `Fail` or `Suspend`; any other exception
        fails the attempt, with the exception's class name in snake_case as category.
        """

        def register(function: Function) -> Function:
            if kind in self._handlers:
                raise ValueError(f"kind {kind!r} has a handler already")
            self._handlers[kind] = Handler(kind, function)
            return function

        return register

    def middleware(self, function: Middleware) -> Middleware:
        """Register `async (task, call_next)`, which runs around every handler: `return await call_next(task)`.

        What it returns or raises is what the handler would have; the first one registered is the outermost.
        """
        self._hooks.middleware.append(function)
        return function

    def lifespan(self, function: Lifespan) -> Lifespan:
        """Register an async context manager: entered before the first task, left after the last.

        Handlers find its value as `task.context`.
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
        """How it is now. Cheap: for a readiness probe, a metrics endpoint, a log line."""
        runner, nats = self._runner, self._nats
        leases = list(self._leases.held.values()) if self._leases else []
        return Health(
            worker_id=self.worker_id,
            status=self._status,
            connected=nats is not None and nats.is_connected,
            running=runner.active if runner else 0,
            unhealthy_leases=sum(not lease.healthy for lease in leases),
        )

    def stop(self) -> None:
        """Begin to drain, as SIGTERM does; called twice, stop without grace."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def main(self) -> None:
        """Run until SIGTERM or SIGINT, with uvloop where it is installed."""
        if not logging.getLogger().handlers:
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        try:
            from uvloop import run
        except ImportError:
            run = asyncio.run
        if code := run(self._live()):
            sys.exit(code)

    async def _live(self) -> int:
        """The exit code of a process that is all worker."""
        code = 0
        try:
            await self.run()
        except errors.PenstockError as error:
            log.error("worker %s cannot go on: %s", self.worker_id, error)
            code = 1
        if self._runner is not None and (self._runner.running or self._runner.in_threads):
            # Python would wait for these without end; their leases are left to expire.
            logging.shutdown()
            os._exit(code)
        return code

    async def run(self, *, handle_signals: bool = True) -> None:
        """Work until `stop()`, SIGTERM or SIGINT; then drain.

        Draining: no new work; what was leased and not begun goes back; running handlers finish within the
        grace time, the rest is left to expire and goes to another worker.

        Raises what ends it: `invalid_request` when its way of asking for work is refused, `timeout` when the
        server has closed the connection for good (a connection that breaks is made again).
        """
        with _signals(self.stop) if handle_signals else contextlib.nullcontext():
            nats = await self._connect()
            if nats is not None:
                self._nats = nats
                try:
                    async with self._hooks.open() as context:
                        await self._work(nats, context)
                finally:
                    self._status = "stopped"
                    await leave(nats)
                    log.info("worker %s has stopped", self.worker_id)

    async def _connect(self) -> Connection | None:
        """A connection, however long that takes; None when stopped before."""
        name = f"penstock-worker {self.worker_id}"
        connecting = asyncio.ensure_future(connect(self._url, name, self._credentials, wait=True))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await connecting if connecting.done() else None
        finally:
            connecting.cancel()
            stopping.cancel()

    async def _work(self, nats: Connection, context: Any) -> None:
        requester = Requester(nats, self.root)
        self._leases = leases = Leases(requester, self._lease_ttl)
        self._runner = runner = Runner(
            requester, leases, self._handlers, self.concurrency, self._on_free_slot, self._hooks, context
        )
        presence = Presence(requester, self._ask, self._version, self._drain_on_request)
        self._intake = intake = Intake(nats, self.root, self._ask, self._free_slots, self._accept)

        async def on_push(msg: Msg) -> None:
            self._on_push(leases, msg)

        await listen(nats, f"{self.root}.worker.{self.worker_id}", on_push)
        await intake.start()
        renewals = asyncio.ensure_future(leases.renew_for_ever())
        asking = asyncio.ensure_future(intake.run())
        stopping = asyncio.ensure_future(self._stop.wait())
        closing = asyncio.ensure_future(self._end_with(nats))
        beating = asyncio.ensure_future(presence.run())
        self._status = "working"
        log.info("worker %s takes work of %s", self.worker_id, ", ".join(self._ask.lanes))
        self.ready.set()
        try:
            await asyncio.wait({renewals, asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            asking.cancel()
            beating.cancel()
            self._status = "draining"
            await asyncio.gather(presence.say("draining"), self._drain(runner, intake, leases))
            await presence.say("stopped")
            for ended in (asking, renewals):
                if ended.done() and not ended.cancelled():
                    ended.result()
            if nats.is_closed:
                raise errors.make("timeout", nats.why_closed)
        finally:
            for loop in (renewals, asking, stopping, closing, beating):
                loop.cancel()
            runner.close()
            with contextlib.suppress(Exception):
                await requester.close()

    # Work that comes in.

    def _free_slots(self) -> int:
        runner = self._runner
        if runner is None or self._stop.is_set():
            return 0
        # Outcomes on their way are bounded too, lest a slow lease-keeper fill the memory.
        if len(runner.running) > 4 * self.concurrency + 256:
            return 0
        return self.concurrency - runner.active - len(self._surplus)

    def _accept(self, tasks: list[TaskMessage]) -> None:
        runner = self._runner
        assert runner is not None
        for message in tasks:
            if self._stop.is_set() or runner.active >= self.concurrency:
                self._surplus.append(message)
            else:
                runner.start(message)

    def _on_free_slot(self) -> None:
        runner, intake = self._runner, self._intake
        assert runner is not None and intake is not None
        if self._surplus and not self._stop.is_set():
            runner.start(self._surplus.popleft())
        else:
            intake.slot_freed()

    def _drain_on_request(self) -> None:
        if not self._stop.is_set():  # a second stop would take the grace away
            log.info("worker %s is told to drain", self.worker_id)
            self.stop()

    def _on_push(self, leases: Leases, msg: Msg) -> None:
        try:
            push = _decode_push(msg.data)
        except msgspec.MsgspecError as error:
            log.warning("a push that cannot be read: %s", error)
            return
        lease = leases.held.get(push.lease_id or "")
        if push.type == "cancel" and lease is not None:
            lease.cancel()
        elif push.type == "drain":
            self._drain_on_request()

    # The end.

    async def _end_with(self, nats: Connection) -> None:
        """Without its connection it can neither take work nor tell what became of it."""
        await nats.closed.wait()
        self._hurry.set()
        self._stop.set()

    async def _drain(self, runner: Runner, intake: Intake, leases: Leases) -> None:
        self._stop.set()
        log.info("worker %s drains: %d running", self.worker_id, runner.active)
        await intake.stop()
        surplus, self._surplus = list(self._surplus), deque[TaskMessage]()
        await asyncio.gather(*(self._give_back(runner, message) for message in surplus))
        if runner.running:
            hurry = asyncio.create_task(self._hurry.wait())
            everything = asyncio.gather(*runner.running, return_exceptions=True)
            await asyncio.wait({everything, hurry}, timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        if runner.running:
            log.warning("worker %s leaves %d tasks to expire", self.worker_id, len(runner.running))
            for lease in list(leases.held.values()):
                lease.abandon()
            await asyncio.wait(runner.running, timeout=1.0)
            for task in list(runner.running):
                task.cancel()
            if runner.running:
                await asyncio.wait(runner.running, timeout=1.0)

    @staticmethod
    async def _give_back(runner: Runner, message: TaskMessage) -> None:
        try:
            await asyncio.wait_for(runner.task(message).release(), 5.0)
        except errors.ConflictError:
            runner.start(message)  # begun already as far as the service knows: finish it within the grace
        except (errors.PenstockError, TimeoutError) as error:
            log.warning("%s could not be given back: %s", message.execution_id, error)


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Generator[None]:
    """SIGTERM and SIGINT call `stop`, where this thread may say so."""
    loop = asyncio.get_running_loop()
    caught: list[signal.Signals] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)
            caught.append(number)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


def _new_worker_id() -> str:
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "worker"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
