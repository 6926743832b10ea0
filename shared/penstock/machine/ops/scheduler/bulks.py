"""Operations on bulk changes. The rules are in lua/schedule/bulks.lua; the scheduler makes the steps."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Slice
from penstock.machine.ops.lease_keeper import Revoke
from penstock.machine.ops.signal_router import Hold, Resume, Send


class BulkKept(Struct, kw_only=True):
    """A bulk change as it is kept: the fields of `Bulk`, with the filter as JSON text, and where the next step begins.

    payload: JSON text, None for null and in lists. step: how many steps were made, the last one at step_at.
    """

    bulk_id: str
    status: str
    filter: str
    action: str
    reason: str = ""
    grace_ms: int | None = None
    priority: int | None = None
    tags: dict[str, str] | None = None
    name: str | None = None
    payload: str | None = None
    waitpoint_key: str | None = None
    rate: int
    most: int | None = None
    looked: int
    done: int
    refused: int
    last_error: dict[str, Any] | None = None
    looked_to: int | None = None
    by: str | None = None
    created_at: int
    updated_at: int
    finished_at: int | None = None
    duplicate: bool = False
    step: int
    step_at: int
    cursor: str | None = None


@op("scheduler", by="id")
class BulkCreate(Op[BulkKept], kw_only=True):
    """filter, payload: JSON text."""

    id: str
    namespace: str
    filter: str
    action: str
    reason: str
    grace_ms: int | None = None
    priority: int | None = None
    tags: dict[str, str] | None = None
    name: str | None = None
    payload: str | None = None
    waitpoint_key: str | None = None
    rate: int
    most: int | None = None
    idempotency_key: str | None = None
    digest: str | None = None


@op("scheduler", by="bulk_id")
class BulkGet(Op[BulkKept], kw_only=True):
    bulk_id: str


@op("scheduler", weight=PAGE)
class BulkList(Op[Slice[BulkKept]], kw_only=True):
    """Return a page, newest first, examining at most `budget` bulk changes."""

    status: str | None = None
    cursor: str | None = None
    limit: int
    budget: int


@op("scheduler", by="bulk_id")
class BulkStop(Op[BulkKept], kw_only=True):
    bulk_id: str


@op("scheduler", by="bulk_id")
class BulkAdvance(Op[None], kw_only=True):
    """Note a step that was made. cursor: where the next one begins, None after the last; the counts are this step's."""

    bulk_id: str
    step: int
    cursor: str | None = None
    looked: int
    done: int
    refused: int
    last_error: dict[str, Any] | None = None
    looked_to: int | None = None
    pause_ms: int


# What other services do for an operator, but once for a bulk change and an execution, however often the step is made.


@op("scheduler", by="execution_id")
class BulkHold(Hold, kw_only=True):
    bulk_id: str


@op("scheduler", by="execution_id")
class BulkResume(Resume, kw_only=True):
    bulk_id: str


@op("scheduler", by="execution_id")
class BulkRevoke(Revoke, kw_only=True):
    bulk_id: str


@op("scheduler", by="execution_id")
class BulkSend(Send, kw_only=True):
    bulk_id: str
