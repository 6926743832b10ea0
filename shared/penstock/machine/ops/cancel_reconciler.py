"""The cancel-reconciler's operations: stop executions and flows, and make sure that they have stopped."""

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Due, Now
from penstock.messages.cancellation import BacklogItem
from penstock.messages.common import StateReply
from penstock.messages.flows import Flow

__all__ = ["Due"]


@op("cancel_reconciler", "scheduler", by="execution_id")
class Cancel(Op[StateReply], kw_only=True):
    execution_id: str
    reason: str
    grace_ms: int


@op("cancel_reconciler", by="flow_id")
class FlowRequestCancel(Op[Flow], kw_only=True):
    flow_id: str
    expected_revision: int | None = None


class Progress(Struct):
    """How far the cancellation of a flow's members is.

    listed: all members to stop are listed; more: some are still to be stopped or listed; left: the number of stopped
    members that still run.
    """

    listed: bool
    more: bool
    left: int


class CancelBegun(Progress, kw_only=True):
    """The progress, with the flow's status and policy. again: the flow was already terminal; nothing has changed."""

    again: bool
    status: str
    policy: str | None = None


@op("cancel_reconciler", by="flow_id", weight=32)
class FlowCancel(Op[CancelBegun], kw_only=True):
    """Cancel the flow at once, and begin to list and stop its members. FlowCancelStep goes on with that."""

    flow_id: str
    policy: str
    reason: str
    grace_ms: int
    expected_revision: int | None = None


@op("cancel_reconciler", by="flow_id", weight=32)
class FlowCancelStep(Op[Progress], kw_only=True):
    """List or stop the next members of a cancelled flow."""

    flow_id: str


class MembersRead(Struct):
    """total: how many members the cancellation was to stop."""

    ids: list[str]
    more: bool
    total: int


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


class Sizes(Now):
    """The backlog of one partition. oldest_at: when the oldest item of the sample was asked to stop."""

    executions: int
    flows: int
    oldest_at: int | None = None


@op("cancel_reconciler", weight=PAGE)
class BacklogSize(Op[Sizes], kw_only=True):
    """Count the backlog of this partition. sample: how many executions and flows are read for the oldest."""

    sample: int
