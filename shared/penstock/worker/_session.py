"""A worker's session on one connection: it takes tasks, runs them in slots, and drains at the end."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from nats.aio.msg import Msg

from penstock import errors, verbs
from penstock.bus.connection import Connection
from penstock.bus.listening import listen
from penstock.codecs import Codecs
from penstock.messages.executions import WorkNext
from penstock.messages.leases import TaskMessage
from penstock.messages.workers import DrainPush, Push
from penstock.sdk.requester import Extras
from penstock.subjects import worker_subject
from penstock.worker._fenced import FencedCalls
from penstock.worker._hooks import Hooks
from penstock.worker._intake import TaskIntake
from penstock.worker._invoke import Handler
from penstock.worker._leases import Lease, LeaseRenewer
from penstock.worker._loop import LoopWatch, teller
from penstock.worker._presence import Presence
from penstock.worker._runner import Runner
from penstock.worker._surplus import Surplus

log: Final = logging.getLogger("penstock.worker")

REGISTER_S: Final = 0.5
CONFIRM_AGAIN_S: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """A worker's settings, handlers and hooks, as its user has set and registered them."""

    url: str
    credentials: str | None
    root: str
    ask: WorkNext
    concurrency: int
    lease_ttl: float
    grace: float
    version: str
    codec: Codecs
    handlers: dict[str, Handler]
    hooks: Hooks


class Stop:
    """A request to stop. The first `ask` means drain, the second means without grace."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()

    def ask(self) -> None:
        if self.asked.is_set():
            self.hurry.set()
        self.asked.set()


_decode_push: Final[Callable[[bytes], Push]] = msgspec.json.Decoder(Push).decode


class Session:
    """Runs intake, runner, leases and presence together, from the first request for work to the last outcome."""

    def __init__(self, nats: Connection, config: WorkerConfig, stop: Stop, context: Any) -> None:
        self.status: Literal["starting", "working", "draining"] = "starting"
        self._nats = nats
        self._config = config
        self._stop = stop
        self._worker_id = config.ask.worker_id
        extras = Extras.of(nats, config.codec)
        self.requester = extras.requester(nats, config.root)
        self.leases = LeaseRenewer(self.requester, config.lease_ttl)
        self.runner = Runner(
            self.requester,
            self.leases,
            config.handlers,
            config.concurrency,
            self._on_free_slot,
            config.hooks,
            context,
            extras,
        )
        self._watch = LoopWatch(config.lease_ttl / 3, teller(config, self._held))
        self._presence = Presence(
            self.requester,
            config.ask,
            config.version,
            config.concurrency,
            {kind: handler.schema() for kind, handler in config.handlers.items()},
            self.leases.clock,
            lambda: (self._watch.longest_ms(), self.leases.holding()),
            self._drain_on_request,
        )
        self._intake = TaskIntake(nats, config.root, config.ask, config.concurrency, self._room, self._accept)
        self._surplus = Surplus(self._no_slot)
        # One asyncio task for each lease that a renewal must confirm before its handler starts.
        self._confirming: set[asyncio.Task[None]] = set()

    async def work(self, ready: asyncio.Event) -> None:
        """Work until asked to stop, or until renewals or intake fail; then drain. Set `ready` once working."""
        await listen(self._nats, worker_subject(self._config.root, self._worker_id), self._on_push)
        await self._intake.start()
        renewals = asyncio.ensure_future(self.leases.renew_for_ever())
        beating = asyncio.ensure_future(self._presence.run())
        asking = asyncio.ensure_future(self._ask_for_work())
        stopping = asyncio.ensure_future(self._stop.asked.wait())
        closing = asyncio.ensure_future(self._end_with_connection())
        self._watch.start()
        self.status = "working"
        log.info("worker %s takes work of %s", self._worker_id, ", ".join(self._config.ask.lanes))
        ready.set()
        try:
            await asyncio.wait({renewals, asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            asking.cancel()
            beating.cancel()
            self.status = "draining"
            await asyncio.gather(self._presence.say("draining"), self._drain())
            await self._presence.say("stopped")
            for ended in (asking, renewals):
                if ended.done() and not ended.cancelled():
                    ended.result()
            if self._nats.is_closed:
                raise errors.make("timeout", self._nats.why_closed)
        finally:
            self._watch.stop()
            for loop in (renewals, asking, stopping, closing, beating, *self._confirming):
                loop.cancel()
            self._surplus.cancel()
            self.runner.close()
            with contextlib.suppress(Exception):
                await self.requester.close()

    def _held(self) -> list[TaskMessage]:
        return [lease.message for lease in self.leases.held.values() if lease.began is not None]

    # Incoming work.

    async def _ask_for_work(self) -> None:
        # The registry's reply shows Valkey's clock. Without it, each lease must be renewed before its handler starts.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._presence.registered.wait(), REGISTER_S)
        await self._intake.run()

    def _room(self, slots: int) -> int:
        if self._stop.asked.is_set():
            return 0
        # Undelivered outcomes are bounded too, so that a slow lease-keeper cannot fill the memory.
        if len(self.runner.running) > 4 * self._config.concurrency + 256:
            return 0
        return slots - self._busy - len(self._surplus)

    @property
    def _busy(self) -> int:
        return self.runner.active + len(self._confirming)

    def _accept(self, tasks: list[TaskMessage]) -> None:
        for message in tasks:
            lease = self.leases.add(message)
            if self._stop.asked.is_set() or self._busy >= self._config.concurrency:
                self._surplus.add(lease)
            else:
                self._begin(lease)

    def _begin(self, lease: Lease) -> None:
        """Start the handler if the lease surely holds; otherwise confirm the lease with a renewal first."""
        if lease.ours:
            self.runner.start(lease)
            return
        confirming = asyncio.get_running_loop().create_task(self._confirm(lease))
        self._confirming.add(confirming)
        confirming.add_done_callback(self._confirmed)

    def _confirmed(self, confirming: "asyncio.Task[None]") -> None:
        self._confirming.discard(confirming)
        self._on_free_slot()  # the intake counts again, so a slot that the task took is not given twice

    async def _confirm(self, lease: Lease) -> None:
        give_up = time.monotonic() + self._config.lease_ttl
        while lease.lost is None and not lease.ours and time.monotonic() < give_up:
            try:
                await self.leases.renew(lease, self._config.lease_ttl / 3)
            except errors.PenstockError as error:
                log.debug("%s: not renewed yet: %s", lease.message.execution_id, error)
                await asyncio.sleep(CONFIRM_AGAIN_S)
        if not lease.ours:
            self._drop(lease)
        elif self._stop.asked.is_set():
            await self._give_back(lease)
        else:
            self.runner.start(lease)

    def _drop(self, lease: Lease) -> None:
        """Drop a lost lease without starting it: another worker may run the task."""
        self.leases.drop(lease)
        log.warning("%s: its lease was lost before it could begin", lease.message.execution_id)

    def _on_free_slot(self) -> None:
        while self._surplus and self._busy < self._config.concurrency and not self._stop.asked.is_set():
            lease = self._surplus.pop()
            if lease.lost is None:
                self._begin(lease)
            else:
                self._drop(lease)
        self._intake.slot_freed()

    def _drain_on_request(self) -> None:
        if not self._stop.asked.is_set():  # a second `ask` would end the grace time
            log.info("worker %s is told to drain", self._worker_id)
            self._stop.ask()

    def _on_push(self, msg: Msg) -> None:
        try:
            push = _decode_push(msg.data)
        except msgspec.MsgspecError as error:
            log.warning("a push that cannot be read: %s", error)
            return
        if isinstance(push, DrainPush):
            self._drain_on_request()
        elif (lease := self.leases.held.get(push.lease_id)) is not None:
            lease.cancel()

    # Shutdown.

    async def _end_with_connection(self) -> None:
        """Stop without grace when the connection closes: no work can be taken and no outcome sent without it."""
        await self._nats.closed.wait()
        self._stop.hurry.set()
        self._stop.asked.set()

    async def _drain(self) -> None:
        runner, grace = self.runner, self._config.grace
        self._stop.asked.set()
        log.info("worker %s drains: %d running", self._worker_id, runner.active)
        await self._intake.stop()
        await asyncio.gather(self._surplus.close(), *self._confirming)
        if runner.running:
            hurry = asyncio.create_task(self._stop.hurry.wait())
            finished = asyncio.create_task(runner.finished())
            await asyncio.wait({finished, hurry}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            finished.cancel()
        if runner.running:
            log.warning("worker %s leaves %d tasks to expire", self._worker_id, len(runner.running))
            for lease in list(self.leases.held.values()):
                lease.abandon()
            await asyncio.wait(runner.running, timeout=1.0)
            for task in list(runner.running):
                task.cancel()
            if runner.running:
                await asyncio.wait(runner.running, timeout=1.0)

    async def _no_slot(self, lease: Lease) -> None:
        self._intake.not_brief()
        await self._give_back(lease)

    async def _give_back(self, lease: Lease) -> None:
        if lease.lost is not None:
            self._drop(lease)
            return
        try:
            calls = FencedCalls(self.requester, self.leases, lease)
            await asyncio.wait_for(calls.consume(verbs.LEASE_RELEASE, unbegun=True), 5.0)
        except (errors.PenstockError, TimeoutError) as error:
            log.warning("%s could not be given back: %s", lease.message.execution_id, error)
        self.leases.drop(lease)
