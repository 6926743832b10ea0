"""Messages that cancel executions and flows, and that list cancellations still under way."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from penstock.messages.common import Id, Limit, Reply, Request, Text, WaitMs
from penstock.messages.flows import Revision

GraceMs = Annotated[int, Meta(ge=0, le=86_400_000, description="how long a worker has to stop by itself")]
DEFAULT_GRACE_MS = 10_000


class FlowRequestCancel(Request, kw_only=True):
    flow_id: Id
    expected_revision: Revision | None = None


class FlowCancel(Request, kw_only=True):
    flow_id: Id
    policy: Literal["cancel_all", "cancel_pending", "flow_only"] = "cancel_all"
    reason: Text = ""
    wait: bool = False
    wait_ms: WaitMs = 30_000
    grace_ms: GraceMs = DEFAULT_GRACE_MS
    expected_revision: Revision | None = None


class FlowCancelled(Reply, kw_only=True):
    """`cancelled`, `cancellation_scheduled` or `partially_cancelled` (contract §3).

    status: the flow's; it stays finished or failed if the flow ended so before, as then nothing is changed.
    """

    result: str
    status: str = "cancelled"
    cancellation_policy: str
    member_execution_ids: list[str] = []
    member_count: int | UnsetType = UNSET
    """Only with `cancellation_scheduled`."""
    failed_member_execution_ids: list[str] | UnsetType = UNSET
    """Only with `partially_cancelled`."""


class ExecutionCancel(Request, kw_only=True):
    execution_id: Id
    reason: Text = ""
    grace_ms: GraceMs = DEFAULT_GRACE_MS


class CancelBacklog(Request, kw_only=True):
    cursor: Annotated[str, Meta(max_length=256)] | None = None
    limit: Limit = 100


class BacklogItem(Reply, kw_only=True):
    """An execution that is still to be stopped, or a flow with `members` members still to be visited."""

    execution_id: str | None = None
    flow_id: str | None = None
    members: int | None = None
    tries: int
    next_at: int
    last_error: str | None = None
