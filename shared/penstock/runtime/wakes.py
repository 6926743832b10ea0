"""Route hints: the reply of a Valkey call names changes (work ready, item due), and the services concerned wake up.

Listeners in this process are called directly, other processes get hints over NATS. Any hint may be lost: sweeps
make up for lost hints. Hints that no other process needs are not sent.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from penstock.bus.hints import Hints
from penstock.messages.workers import CancelPush
from penstock.runtime.due import DueLoop
from penstock.runtime.ends import Ends
from penstock.runtime.logging import Log
from penstock.runtime.membership import Membership
from penstock.subjects import worker_subject
from penstock.verbs import (
    AUDIT_RELAY,
    CANCEL_RECONCILER,
    LEASE_KEEPER,
    MIRROR_OBSERVER,
    SCHEDULER,
    SIGNAL_ROUTER,
)

Listener = Callable[[int, Any], None]
"""A callback with the partition and the hint's value (see the table of hints in docs/architecture.md)."""

AUDIENCE: Final = {
    "ready": SCHEDULER,
    "done": SCHEDULER,
    "answered": SCHEDULER,
    "slot": SCHEDULER,
    "slot_check": SCHEDULER,
    "unblock": SCHEDULER,
    "unheld": LEASE_KEEPER,
    "flow_ended": SCHEDULER,
    "flow_done": CANCEL_RECONCILER,
    "ring": SIGNAL_ROUTER,
    "rules": MIRROR_OBSERVER,
    "audit": AUDIT_RELAY,
}
"""The service whose instances listen to each topic."""
AUDIT_GAP_S: Final = 0.02
"""Seconds between two audit hints: nearly every call has one, and one hint wakes the relay for all earlier ones."""
ANSWERED_GAP_S: Final = 0.02
"""Seconds until schedulers hear which callers have their answer: they only have to forget them."""


class Wakes:
    """The router of the hints of one service instance."""

    def __init__(
        self,
        service: str,
        root: str,
        nats: Client,
        hints: Hints,
        membership: Membership,
        due: DueLoop,
        sweep_ms: int,
        log: Log,
    ) -> None:
        self._service = service
        self._instance = membership.instance
        self._root = root
        self._nats = nats
        self._hints = hints
        self._membership = membership
        self._due = due
        self._near_ms = 2 * sweep_ms
        self._log = log
        self._ends = Ends(nats)
        self._listeners: defaultdict[str, list[Listener]] = defaultdict(list)
        self._announced: dict[tuple[str, int], float] = {}
        self._pushes: set[asyncio.Task[None]] = set()
        self._audit: dict[int, Any] = {}
        self._audit_timer: asyncio.TimerHandle | None = None
        self._answered: defaultdict[int, list[tuple[str, list[str]]]] = defaultdict(list)
        self._answered_timer: asyncio.TimerHandle | None = None

    def listen(self, topic: str, callback: Listener) -> None:
        """Call `callback(partition, value)` for every hint on this topic. Must be called before `start`."""
        if topic not in AUDIENCE:
            raise ValueError(f"no such topic: {topic}; there are {', '.join(AUDIENCE)}")
        self._listeners[topic].append(callback)

    async def start(self, *, due: bool) -> None:
        """Subscribe to the topics that have listeners and, if `due`, to the hints for the due loop."""
        for topic in self._listeners:
            await self._hints.listen(topic, lambda payload, topic=topic: self._heard(topic, payload))
        if due:
            await self._hints.listen("due", self._heard_due)

    def stop(self) -> None:
        if self._audit_timer is not None:
            self._audit_timer.cancel()
            self._send_audit()
        if self._answered_timer is not None:
            self._answered_timer.cancel()
            self._send_answered()

    def route(self, partition: int, hints: dict[str, Any]) -> None:
        """Route the hints that came with a reply from Valkey (the `on_hints` of `Store`)."""
        for topic, value in hints.items():
            if topic == "due":
                self._route_due(partition, value)
            elif topic == "cancel":
                self._push(value)
            elif topic == "ended":
                self._gather_answered(partition, self._ends.answer(value))
            elif topic == "audit":
                self._tell(topic, partition, value)
                self._gather_audit(partition, value)
            elif topic in AUDIENCE:
                self._tell_others(topic, partition, value)
            # ignore other topics: a newer Lua library may have more, and any hint may be lost

    def _tell_others(self, topic: str, partition: int, value: Any) -> None:
        """Tell the listeners of this process and of others."""
        self._tell(topic, partition, value)
        if not self._alone(AUDIENCE[topic]):
            self._hints.send(topic, (self._instance, partition, value))

    def _alone(self, audience: str) -> bool:
        """Return whether this is the only instance of the service `audience`, so that no hint need be sent."""
        return audience == self._service and self._membership.is_alone()

    def _tell(self, topic: str, partition: int, value: Any) -> None:
        for callback in self._listeners.get(topic, ()):
            try:
                callback(partition, value)
            except Exception:
                self._log.exception("a listener failed", topic=topic)

    def _heard(self, topic: str, payload: Any) -> None:
        origin, partition, value = payload
        if origin != self._instance:  # our own hints come back from NATS; `route` has handled them
            self._tell(topic, partition, value)

    # -- due times ----------------------------------------------------------------------------------

    def _route_due(self, partition: int, times: dict[str, int]) -> None:
        for service, at in times.items():
            if service == self._service:
                self._due.wake(partition, at)
                if partition in self._membership.owned():
                    continue
            self._announce(service, partition, at)

    def _announce(self, service: str, partition: int, at: float) -> None:
        """Send a due time to other instances, unless their sweep finds it in time or they know an earlier due time."""
        now = self._due.clock.now()
        if at > now + self._near_ms:
            return
        told = self._announced.get((service, partition), 0.0)
        if now < told <= at:
            return
        self._announced[service, partition] = at
        self._hints.send("due", (self._instance, partition, {service: at}))

    def _heard_due(self, payload: Any) -> None:
        origin, partition, times = payload
        if origin != self._instance and self._service in times:
            self._due.wake(partition, times[self._service])

    # -- answered callers -----------------------------------------------------------------------------

    def _gather_answered(self, partition: int, told: list[tuple[str, list[str]]]) -> None:
        self._tell("answered", partition, told)
        if not self._alone(SCHEDULER):
            self._answered[partition] += told
            if self._answered_timer is None:
                self._answered_timer = asyncio.get_running_loop().call_later(
                    ANSWERED_GAP_S, self._send_answered
                )

    def _send_answered(self) -> None:
        self._answered_timer = None
        answered, self._answered = self._answered, defaultdict(list)
        for partition, told in answered.items():
            self._hints.send("answered", (self._instance, partition, told))

    # -- audit --------------------------------------------------------------------------------------

    def _gather_audit(self, partition: int, value: Any) -> None:
        if self._alone(AUDIT_RELAY):
            return
        self._audit[partition] = value
        if self._audit_timer is None:  # send the first hint at once; later ones wait for the timer
            self._send_audit()

    def _send_audit(self) -> None:
        self._audit_timer = None
        if self._audit:
            for partition, value in self._audit.items():
                self._hints.send("audit", (self._instance, partition, value))
            self._audit.clear()
            self._audit_timer = asyncio.get_running_loop().call_later(AUDIT_GAP_S, self._send_audit)

    # -- workers ------------------------------------------------------------------------------------

    def _push(self, tasks: Sequence[Sequence[str]]) -> None:
        """Tell workers to stop tasks. A push may be lost: the reply to a lease renewal tells the worker again."""
        sending = asyncio.get_running_loop().create_task(self._publish(tasks))
        self._pushes.add(sending)
        sending.add_done_callback(self._pushes.discard)

    async def _publish(self, tasks: Sequence[Sequence[str]]) -> None:
        for worker_id, execution_id, lease_id in tasks:
            push = CancelPush(execution_id=execution_id, lease_id=lease_id)
            try:
                await self._nats.publish(worker_subject(self._root, worker_id), msgspec.json.encode(push))
            except NatsError as error:
                self._log.warning("a cancellation could not be pushed", worker=worker_id, error=repr(error))
