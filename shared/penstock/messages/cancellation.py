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
    """The result of a flow's cancellation, and the members that it stops.

    status: the flow's; it stays finished or failed if the flow ended so before, as then nothing is changed.
    """

    result: Literal["cancelled", "cancellation_scheduled", "partially_cancelled"]
    """Of a request that waits: whether all members have stopped (`cancelled`) or not (`partially_cancelled`)."""
    status: str = "cancelled"
    cancellation_policy: str
    member_execution_ids: list[str] = []
    """As many as one message carries; a repeated request is answered with at most 1,000."""
    member_count: int | UnsetType = UNSET
    """The number of all these members: with `cancellation_scheduled`, and where not all of them are listed."""
    failed_member_execution_ids: list[str] | UnsetType = UNSET
    """The members that have not stopped, only with `partially_cancelled`."""


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
