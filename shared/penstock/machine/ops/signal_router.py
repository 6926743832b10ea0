"""The signal-router's operations: waits and wakes. Tokens never come here: they are made and checked outside."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op
from penstock.machine.ops.common import Due
from penstock.messages.signals import Delivered, Signal

__all__ = ["Due"]


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
