"""Where hints go: what a call into Valkey set in motion wakes whoever waits for it.

Listeners of this process are called directly, the others hear it over NATS. Any hint may be lost; sweeps
make up for that, so what nobody needs to hear is not sent.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from penstock.bus.hints import Hints
from penstock.runtime.due import DueLoop
from penstock.runtime.logging import Log
from penstock.runtime.membership import Membership
from penstock.subjects import worker_subject
from penstock.verbs import AUDIT_RELAY, CANCEL_RECONCILER, MIRROR_OBSERVER, SCHEDULER, SIGNAL_ROUTER

Listener = Callable[[int, Any], None]
"""Gets the partition, and the hint's value as the table in docs/architecture.md has it."""

AUDIENCE: Final = {
    "ready": SCHEDULER,
    "done": SCHEDULER,
    "slot": SCHEDULER,
    "slot_check": SCHEDULER,
    "unblock": SCHEDULER,
    "flow_done": CANCEL_RECONCILER,
    "ring": SIGNAL_ROUTER,
    "rules": MIRROR_OBSERVER,
    "audit": AUDIT_RELAY,
}
"""The topics, and the service whose instances listen to each."""
AUDIT_GAP_S: Final = 0.02
"""Seconds between two audit hints: nearly every call has one, and one wakes the relay for all before it."""


class Wakes:
    """Routes the hints of one service instance."""

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
        self._listeners: defaultdict[str, list[Listener]] = defaultdict(list)
        self._announced: dict[tuple[str, int], float] = {}
        self._pushes: set[asyncio.Task[None]] = set()
        self._audit: dict[int, Any] = {}
        self._audit_timer: asyncio.TimerHandle | None = None

    def listen(self, topic: str, callback: Listener) -> None:
        """`callback(partition, value)` for every hint on this topic; before `start`."""
        if topic not in AUDIENCE:
            raise ValueError(f"no such topic: {topic}; there are {', '.join(AUDIENCE)}")
        self._listeners[topic].append(callback)

    async def start(self, *, due: bool) -> None:
        """Subscribes to what the listeners, and the due loop if there is one, have to hear."""
        for topic in self._listeners:
            await self._hints.listen(topic, lambda payload, topic=topic: self._heard(topic, payload))
        if due:
            await self._hints.listen("due", self._heard_due)

    def stop(self) -> None:
        if self._audit_timer is not None:
            self._audit_timer.cancel()
            self._send_audit()

    def route(self, partition: int, hints: dict[str, Any]) -> None:
        """What came with a reply of Valkey's (`Store`'s `on_hints`)."""
        for topic, value in hints.items():
            if topic == "due":
                self._route_due(partition, value)
            elif topic == "cancel":
                self._push(value)
            elif topic in AUDIENCE:
                self._tell(topic, partition, value)
                if topic == "audit":
                    self._gather_audit(partition, value)
                elif not self._alone(AUDIENCE[topic]):
                    self._hints.send(topic, (self._instance, partition, value))
            # any other: a newer library's, and best effort like all

    def _alone(self, audience: str) -> bool:
        """Whether this instance is all of that audience, so that nobody else has to be told."""
        return audience == self._service and self._membership.is_alone()

    def _tell(self, topic: str, partition: int, value: Any) -> None:
        for callback in self._listeners.get(topic, ()):
            try:
                callback(partition, value)
            except Exception:
                self._log.exception("a listener failed", topic=topic)

    def _heard(self, topic: str, payload: Any) -> None:
        origin, partition, value = payload
        if origin != self._instance:  # our own come back to us, and were told already
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
        """Tells the others, unless their sweep will find it in time or they were told of an earlier time."""
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

    # -- audit --------------------------------------------------------------------------------------

    def _gather_audit(self, partition: int, value: Any) -> None:
        if self._alone(AUDIT_RELAY):
            return
        self._audit[partition] = value
        if self._audit_timer is None:  # the first leaves at once, those after it gather
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
        """Tells workers to stop tasks: a push of which renewals are the safe repetition."""
        sending = asyncio.get_running_loop().create_task(self._publish(tasks))
        self._pushes.add(sending)
        sending.add_done_callback(self._pushes.discard)

    async def _publish(self, tasks: Sequence[Sequence[str]]) -> None:
        for worker_id, execution_id, lease_id in tasks:
            message = {"type": "cancel", "execution_id": execution_id, "lease_id": lease_id}
            try:
                await self._nats.publish(worker_subject(self._root, worker_id), msgspec.json.encode(message))
            except NatsError as error:
                self._log.warning("a cancellation could not be pushed", worker=worker_id, error=repr(error))
