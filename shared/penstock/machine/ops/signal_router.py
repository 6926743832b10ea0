"""The signal-router's operations: waitpoints, signals, and waiting flows. Tokens are made and checked in Python."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op
from penstock.machine.ops.common import PAGE, Due, DueDone, FlowGet, FlowState, Slice, StateSeen
from penstock.messages.common import StateReply
from penstock.messages.flows import Flow
from penstock.messages.signals import Delivered, KeptSignal, Signal

__all__ = ["Due", "DueDone", "FlowGet", "FlowState", "StateSeen"]


class Facts(Struct, frozen=True):
    """The immutable facts of a waitpoint, which its token is made from."""

    waitpoint_id: str
    execution_id: str
    key: str
    created_at: int


class RingKept(Struct):
    ring: str | None = None


@op("signal_router")
class Secrets(Op[RingKept], kw_only=True):
    """Return the ring of signing keys (partition 0); if there is none yet, `offer` becomes the ring."""

    offer: str | None = None


@op("signal_router")
class SecretsRotate(Op[RingKept], kw_only=True):
    """Replace the ring of signing keys by `ring` if it still is `was`. Return the ring afterwards."""

    was: str
    ring: str


class Created(Struct, kw_only=True):
    waitpoint_id: str
    execution_id: str
    key: str
    created_at: int
    expires_at: int


@op("signal_router", by="execution_id")
class Create(Fenced[Created], kw_only=True):
    """Create a pending waitpoint. If the key has a pending waitpoint already, return that one."""

    id: str
    waitpoint_key: str
    expires_in_ms: int


class SuspendDone(Struct, kw_only=True):
    """outcome: suspended (with the facts), already_satisfied (with the signals), or canceled."""

    outcome: str
    suspension_id: str | None = None
    waitpoint_id: str | None = None
    execution_id: str = ""
    key: str = ""
    created_at: int = 0
    items: list[Signal] | None = None


@op("signal_router", by="execution_id")
class Suspend(Fenced[SuspendDone], kw_only=True):
    """Suspend on a pending waitpoint, or on a new one (`id`). condition: compiled; None stands for any signal."""

    id: str
    waitpoint_id: str | None = None
    waitpoint_key: str
    condition: dict[str, Any] | None = None
    reason_code: str
    timeout_ms: int | None = None
    timeout_behavior: str


@op("signal_router", by="waitpoint_id")
class Peek(Op[Facts | None], kw_only=True):
    """Return the facts of a waitpoint, or None if there is no such waitpoint."""

    waitpoint_id: str


@op("signal_router")
class Reject(Op[None], kw_only=True):
    """Record that a signal was refused. event: token_rejected or signal_rejected."""

    waitpoint_id: str | None = None
    event: str
    reason: str


@op("signal_router", by="waitpoint_id")
class Deliver(Op[Delivered], kw_only=True):
    """Deliver one signal, whose token was checked before. payload: JSON text, None for null."""

    waitpoint_id: str
    signal_id: str
    name: str
    source: str | None = None
    payload: str | None = None


class SignalsRead(Struct):
    items: list[Signal]
    more: bool = False


@op("signal_router", by="execution_id")
class ResumedBy(Fenced[SignalsRead], kw_only=True):
    """Return the signals that resumed the execution, after the first `skip`."""

    skip: int
    limit: int


class WaitpointKept(Struct, kw_only=True):
    """A waitpoint. state: pending, open, satisfied, closed or expired; condition: compiled."""

    waitpoint_id: str
    execution_id: str
    key: str
    state: str
    condition: dict[str, Any] | None = None
    tally: dict[str, Any] = {}
    created_at: int
    expires_at: int | None = None


@op("signal_router", by="waitpoint_id")
class WaitpointGet(Op[WaitpointKept], kw_only=True):
    waitpoint_id: str


@op("signal_router", weight=PAGE)
class WaitpointList(Op[Slice[WaitpointKept]], kw_only=True):
    """Return a page, newest first, examining at most `budget` waitpoints. status: as in the contract."""

    execution_id: str | None = None
    namespace: str
    status: str | None = None
    cursor: str | None = None
    limit: int
    budget: int


@op("signal_router", by="waitpoint_id")
class WaitpointClose(Op[WaitpointKept], kw_only=True):
    waitpoint_id: str
    reason: str


class SignalsKept(Struct):
    items: list[KeptSignal]
    more: bool = False


@op("signal_router", by="waitpoint_id", weight=PAGE)
class SignalList(Op[SignalsKept], kw_only=True):
    """Return the signals that a waitpoint keeps, after the first `skip`."""

    waitpoint_id: str
    skip: int
    limit: int


@op("signal_router", by="execution_id")
class Send(Op[Delivered], kw_only=True):
    """Deliver an operator's signal, which needs no token. payload: JSON text, None for null."""

    execution_id: str
    waitpoint_key: str | None = None
    signal_id: str
    name: str
    payload: str | None = None
    reason: str


@op("signal_router", by="execution_id")
class Hold(Op[StateReply], kw_only=True):
    """Suspend a running execution for an operator: running → suspended(operator)."""

    execution_id: str
    reason: str


@op("signal_router", by="execution_id")
class Resume(Op[StateReply], kw_only=True):
    """Resume a suspended execution, whatever its reason: suspended → ready."""

    execution_id: str
    reason: str


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
