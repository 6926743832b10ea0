"""The signal-router's operations that show and close waitpoints, and those of an operator's hold."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Slice
from penstock.messages.common import StateReply
from penstock.messages.signals import KeptSignal


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
class Hold(Op[StateReply], kw_only=True):
    """Suspend a running execution for an operator: running → suspended(operator)."""

    execution_id: str
    reason: str


@op("signal_router", by="execution_id")
class Resume(Op[StateReply], kw_only=True):
    """Resume a suspended execution, whatever its reason: suspended → ready."""

    execution_id: str
    reason: str
