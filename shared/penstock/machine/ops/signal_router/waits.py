"""The signal-router's operations that create waitpoints, suspend executions and deliver signals."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op
from penstock.messages.signals import Delivered, Signal


class Facts(Struct, frozen=True):
    """The immutable facts of a waitpoint, which its token is made from."""

    waitpoint_id: str
    execution_id: str
    key: str
    created_at: int


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


@op("signal_router", by="execution_id")
class Send(Op[Delivered], kw_only=True):
    """Deliver an operator's signal, which needs no token. payload: JSON text, None for null."""

    execution_id: str
    waitpoint_key: str | None = None
    signal_id: str
    name: str
    payload: str | None = None
    reason: str
