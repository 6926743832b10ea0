"""The cancel-reconciler's operations: it stops things, and makes sure they stopped."""

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
    """more: members are still to be walked; left: members that go on."""

    more: bool
    left: int


class CancelBegun(Struct, kw_only=True):
    """The progress of a cancellation that this call began; `status` instead where the flow was terminal already.

    Then ids are the members that were to be stopped (at most 1,000; with `more`, not yet all of them).
    """

    more: bool = False
    left: int = 0
    status: str | None = None
    policy: str | None = None
    ids: list[str] = []


@op("cancel_reconciler", by="flow_id", weight=32)
class FlowCancel(Op[CancelBegun], kw_only=True):
    """The flow is cancelled at once; its first members are stopped."""

    flow_id: str
    policy: str
    reason: str
    grace_ms: int
    expected_revision: int | None = None


@op("cancel_reconciler", by="flow_id", weight=32)
class FlowCancelStep(Op[Progress], kw_only=True):
    """Walks on."""

    flow_id: str


class MembersRead(Struct):
    ids: list[str]
    more: bool


@op("cancel_reconciler", by="flow_id", weight=PAGE)
class FlowCancelMembers(Op[MembersRead], kw_only=True):
    """Members that a cancellation was to stop. left: only those that go on."""

    flow_id: str
    offset: int
    limit: int
    left: bool = False


@op("cancel_reconciler", by="flow_id")
class FlowCancelProgress(Op[Progress], kw_only=True):
    flow_id: str


class Place(Struct):
    """Where the next page of the backlog begins. kind: f (flows) or x (executions)."""

    kind: str
    id: str | None = None
    at: int | None = None


class BacklogPage(Struct):
    items: list[BacklogItem]
    next: Place | None = None


@op("cancel_reconciler", weight=PAGE)
class Backlog(Op[BacklogPage], kw_only=True):
    """What is still to be stopped in this partition, soonest first."""

    kind: str
    id: str | None = None
    at: int | None = None
    limit: int
