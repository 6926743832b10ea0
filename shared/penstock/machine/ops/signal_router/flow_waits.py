"""The signal-router's operations on flows that wait, and on the events that wake them."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.messages.flows import Flow


class EventKept(Struct, kw_only=True):
    """An event that was kept when it came. body: JSON text."""

    event_id: str
    body: str


class WaitBegun(Struct, kw_only=True):
    """The waiting flow. event: the event it waits for, if that came earlier; FlowWake then ends the wait."""

    flow: Flow
    wait_id: str
    event: EventKept | None = None


@op("signal_router", by="flow_id")
class FlowSetWaiting(Op[WaitBegun], kw_only=True):
    """Make a flow wait: running → waiting. wait: as in the contract; at: the time at which the wait ends by itself."""

    flow_id: str
    wait: dict[str, Any]
    at: int | None = None
    topic: str | None = None
    correlation_id: str | None = None
    expected_revision: int | None = None


@op("signal_router", by="flow_id")
class FlowResume(Op[Flow], kw_only=True):
    """Resume a flow for a caller: waiting → running. state: JSON text, merged already; None leaves it unchanged."""

    flow_id: str
    expected_revision: int | None = None
    state: str | None = None
    next_step: str | None = None


class Waiter(Struct, kw_only=True):
    """A flow that waits for an event, with its state (JSON text) and revision."""

    flow_id: str
    wait_id: str
    state: str
    revision: int


class EventSeen(Struct):
    """Flows that wait for an event. after: the flow after which the next slice begins, or None at the end.

    waitpoints: whether some await it too; EventSignal delivers it to them.
    """

    waiters: list[Waiter]
    after: str | None = None
    waitpoints: bool = False


@op("signal_router", weight=24)
class EventCome(Op[EventSeen], kw_only=True):
    """Keep an event for a while, and return flows that wait for it. Run it in each partition; a repeat is harmless."""

    topic: str
    correlation_id: str
    event_id: str
    body: str
    after: str | None = None


class EventSignaled(Struct):
    """after: the waitpoint after which the next slice begins, or None at the end."""

    after: str | None = None


@op("signal_router", weight=60)
class EventSignal(Op[EventSignaled], kw_only=True):
    """Deliver an event to waitpoints that await it, as a signal. Run it in each partition; a repeat is harmless."""

    topic: str
    correlation_id: str
    event_id: str
    body: str
    after: str | None = None


class Woken(Struct):
    """done: False if the flow's revision has changed; True if the flow goes on, now or since an earlier call."""

    done: bool


@op("signal_router", by="flow_id")
class FlowWake(Op[Woken], kw_only=True):
    """End a flow's wait (`wait_id`) because the event has come. state: as in FlowResume."""

    flow_id: str
    wait_id: str
    event_id: str
    topic: str
    body: str
    state: str | None = None
    revision: int


class DueFlow(Struct):
    """A flow whose event has come, but which was not woken, because the process that had to wake it died."""

    flow_id: str
    wait_id: str
    event: EventKept
    topic: str
