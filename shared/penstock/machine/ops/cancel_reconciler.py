"""The cancel-reconciler's operations: stop executions and flows, and make sure that they have stopped."""

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Due
from penstock.messages.cancellation import BacklogItem
from penstock.messages.common import StateReply
from penstock.messages.flows import Flow

__all__ = ["Due"]


@op("cancel_reconciler", by="execution_id")
class Cancel(Op[StateReply], kw_only=True):
    execution_id: str
    reason: str
    grace_ms: int


@op("cancel_reconciler", by="flow_id")
class FlowRequestCancel(Op[Flow], kw_only=True):
    flow_id: str
    expected_revision: int | None = None


class Progress(Struct):
    """more: some members have not been visited yet; left: the number of members to stop that still run."""

    more: bool
    left: int


class CancelBegun(Struct, kw_only=True):
    """The progress of the cancellation; for a flow that was already terminal, its `status`, `policy` and `ids` instead.

    ids: the members that were to be stopped (at most 1,000; if `more`, not yet all of them).
    """

    more: bool = False
    left: int = 0
    status: str | None = None
    policy: str | None = None
    ids: list[str] = []


@op("cancel_reconciler", by="flow_id", weight=32)
class FlowCancel(Op[CancelBegun], kw_only=True):
    """Cancel the flow at once, and stop its first members. FlowCancelStep stops the others."""

    flow_id: str
    policy: str
    reason: str
    grace_ms: int
    expected_revision: int | None = None


@op("cancel_reconciler", by="flow_id", weight=32)
class FlowCancelStep(Op[Progress], kw_only=True):
    """Stop the next members of a cancelled flow."""

    flow_id: str


class MembersRead(Struct):
    ids: list[str]
    more: bool


@op("cancel_reconciler", by="flow_id", weight=PAGE)
class FlowCancelMembers(Op[MembersRead], kw_only=True):
    """Return members that a cancellation was to stop. left: only those that still run."""

    flow_id: str
    offset: int
    limit: int
    left: bool = False


@op("cancel_reconciler", by="flow_id")
class FlowCancelProgress(Op[Progress], kw_only=True):
    flow_id: str


class Place(Struct):
    """The last item seen of the backlog, after which its next page begins. kind: f (flows) or x (executions)."""

    kind: str
    id: str | None = None
    at: int | None = None


class BacklogPage(Struct):
    items: list[BacklogItem]
    next: Place | None = None


@op("cancel_reconciler", weight=PAGE)
class Backlog(Op[BacklogPage], kw_only=True):
    """List the executions and flows still to be stopped in this partition, those to be tried next first."""

    kind: str
    id: str | None = None
    at: int | None = None
    limit: int
