"""The signal-router's operations: waits and wakes. Tokens never come here: they are made and checked outside."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op
from penstock.machine.ops.common import PAGE, Due, DueDone, FlowGet, FlowState, Slice, StateSeen
from penstock.messages.common import StateReply
from penstock.messages.flows import Flow
from penstock.messages.signals import Delivered, Signal

__all__ = ["Due", "DueDone", "FlowGet", "FlowState", "StateSeen"]


class Facts(Struct, frozen=True):
    """What a waitpoint's token vouches for: all immutable."""

    waitpoint_id: str
    execution_id: str
    key: str
    created_at: int


class RingKept(Struct):
    ring: str | None = None


@op("signal_router")
class Secrets(Op[RingKept], kw_only=True):
    """The ring of signing keys (partition 0), made of `offer` if there is none yet."""

    offer: str | None = None


@op("signal_router")
class SecretsRotate(Op[RingKept], kw_only=True):
    """The ring is `ring` from now on, if it still is `was`. Answers the ring as it is then."""

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
    """A pending waitpoint. The same key again, while it is pending, answers the same."""

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
    """Waits on a pending waitpoint, or on a new one (`id`). condition: compiled; None is any signal."""

    id: str
    waitpoint_id: str | None = None
    waitpoint_key: str
    condition: dict[str, Any] | None = None
    reason_code: str
    timeout_ms: int | None = None
    timeout_behavior: str


@op("signal_router", by="waitpoint_id")
class Peek(Op[Facts | None], kw_only=True):
    """The facts of a waitpoint, if there is one."""

    waitpoint_id: str


@op("signal_router")
class Reject(Op[None], kw_only=True):
    """A signal was refused. event: token_rejected or signal_rejected."""

    waitpoint_id: str | None = None
    event: str
    reason: str


@op("signal_router", by="waitpoint_id")
class Deliver(Op[Delivered], kw_only=True):
    """One signal, whose token was checked. payload: JSON text, None for null."""

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
    """The signals that the execution was resumed by, past the first `skip`."""

    skip: int
    limit: int


class WaitpointKept(Struct, kw_only=True):
    """A waitpoint as it stands. state: pending, open, satisfied, closed or expired; condition: compiled."""

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
    """A page, newest first, looking at no more than `budget` of them. status: as the contract has it."""

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


@op("signal_router", by="execution_id")
class Send(Op[Delivered], kw_only=True):
    """An operator's signal. payload: JSON text, None for null."""

    execution_id: str
    waitpoint_key: str | None = None
    signal_id: str
    name: str
    payload: str | None = None
    reason: str


@op("signal_router", by="execution_id")
class Hold(Op[StateReply], kw_only=True):
    """running → suspended(operator)."""

    execution_id: str
    reason: str


@op("signal_router", by="execution_id")
class Resume(Op[StateReply], kw_only=True):
    """suspended, for whatever reason → ready."""

    execution_id: str
    reason: str


class EventKept(Struct, kw_only=True):
    """An event that came before: body is JSON text."""

    event_id: str
    body: str


class WaitBegun(Struct, kw_only=True):
    """The flow; and, where an event that it waits for came before, that event, for FlowWake."""

    flow: Flow
    wait_id: str
    event: EventKept | None = None


@op("signal_router", by="flow_id")
class FlowSetWaiting(Op[WaitBegun], kw_only=True):
    """running → waiting. wait: as the contract has it; at: when it ends by itself."""

    flow_id: str
    wait: dict[str, Any]
    at: int | None = None
    topic: str | None = None
    correlation_id: str | None = None
    expected_revision: int | None = None


@op("signal_router", by="flow_id")
class FlowResume(Op[Flow], kw_only=True):
    """waiting → running by a caller's word. state: JSON text, merged already; None leaves it as it is."""

    flow_id: str
    expected_revision: int | None = None
    state: str | None = None
    next_step: str | None = None


class Waiter(Struct, kw_only=True):
    """A flow that waits for an event, and its state (JSON text) at a revision."""

    flow_id: str
    wait_id: str
    state: str
    revision: int


class EventSeen(Struct):
    """Flows that wait for it. after: the one behind which there may be more."""

    waiters: list[Waiter]
    after: str | None = None


@op("signal_router", weight=24)
class EventCome(Op[EventSeen], kw_only=True):
    """An event of a topic and a correlation id: kept for a while, in each partition. Repeating it is harmless."""

    topic: str
    correlation_id: str
    event_id: str
    body: str
    after: str | None = None


class Woken(Struct):
    """Whether the flow goes on now, or did so before; False: its state is of another revision now."""

    done: bool


@op("signal_router", by="flow_id")
class FlowWake(Op[Woken], kw_only=True):
    """The flow that waits so (`wait_id`) goes on, since this event came. state: as in FlowResume."""

    flow_id: str
    wait_id: str
    event_id: str
    topic: str
    body: str
    state: str | None = None
    revision: int


class DueFlow(Struct):
    """A flow that waits for an event which came before, and was not woken by who knew (it died)."""

    flow_id: str
    wait_id: str
    event: EventKept
    topic: str
