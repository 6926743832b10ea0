"""The part of the flows' model about waits: for a time, for an event or for somebody's word."""

from dataclasses import dataclass

from flow_reference import Flow, Member

EVENT_TTL = 210_000
"""How long an event counts for a flow that begins to wait after it came (ms)."""


@dataclass(frozen=True)
class Event:
    event_id: str
    topic: str
    came_at: int


@dataclass
class Wait:
    kind: str
    ends_at: int | None = None
    topic: str | None = None
    late_event: bool = False
    """An event that came before is still to wake the flow, as its router died."""


class WaitingFlow(Flow):
    """A flow that may wait. `woken` are the events that have woken it, `events` those that have come."""

    def __init__(self, members: list[Member]) -> None:
        super().__init__(members)
        self.wait: Wait | None = None
        self.woken: set[str] = set()
        self.events: dict[str, Event] = {}

    def set_waiting(self, now: int, wait: Wait) -> str | None:
        """Begin a wait. Return the code of the refusal, or None."""
        if (refused := self._refuses("running")) is not None:
            return refused
        self.status, self.wait = "waiting", wait
        if wait.ends_at is not None and wait.ends_at <= now:
            self.go_on()
        else:
            wait.late_event = self.came_before(now) is not None
        return None

    def resume(self) -> str | None:
        """End the wait by request. Return the code of the refusal, or None."""
        refused = self._refuses("waiting")
        if refused is None:
            self.go_on()
        return refused

    def _refuses(self, needed: str) -> str | None:
        return self.refuses_changes() or (None if self.status == needed else "illegal_transition")

    def refuses_changes(self) -> str | None:
        if self.status in ("finished", "failed", "cancelled"):
            return "already_terminal"
        return "cancel_pending" if self.cancel_requested else None

    def go_on(self) -> None:
        self.status, self.wait = "running", None
        for member in self.members.values():
            if member.state == "scheduled" and (not member.parents or member.decided == "run"):
                member.state = "ready"
        self.settle(looks=True)

    def _conclude(self, status: str) -> None:
        super()._conclude(status)
        self.wait = None

    # -- events -----------------------------------------------------------------------------------

    def comes(self, now: int, event_id: str, topic: str) -> None:
        self.events.setdefault(event_id, Event(event_id, topic, now))

    def awaits(self, event_id: str) -> bool:
        """Return whether this event would wake the flow now."""
        topic = self.events[event_id].topic
        waits = self.wait is not None and self.wait.topic == topic
        return waits and not self.cancel_requested and event_id not in self.woken

    def came_before(self, now: int) -> Event | None:
        """Return the oldest event that the flow has waited for too late."""
        return next(
            (
                event
                for event in self.events.values()
                if self.awaits(event.event_id) and event.came_at > now - EVENT_TTL
            ),
            None,
        )

    def wake(self, event_id: str) -> None:
        if self.awaits(event_id):
            self.woken.add(event_id)
            self.go_on()

    # -- time -------------------------------------------------------------------------------------

    def due(self, now: int) -> Event | None:
        """End a wait that is over. Return the event that a router must hand to the flow again, if there is one."""
        if self.wait is None:
            return None
        if self.wait.ends_at is not None and self.wait.ends_at <= now:
            if self.cancel_requested:
                self.wait.ends_at, self.wait.late_event = None, False
            else:
                self.go_on()
            return None
        event = self.came_before(now) if self.wait.late_event else None
        self.wait.late_event = event is not None
        return event
