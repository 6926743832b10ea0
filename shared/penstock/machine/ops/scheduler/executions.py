"""Executions come in and are looked at."""

from typing import Any

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Slice
from penstock.messages.common import Record
from penstock.messages.executions import ExecutionCreated, ExecutionSpec


@op("scheduler", by="id")
class Create(Op[ExecutionCreated], kw_only=True):
    """A new execution. again: an earlier request settled its id, so one that exists is a duplicate.

    parent_close: None is cancel. on_conflict: existing, reject or replace, where there is a unique_key.
    """

    id: str
    namespace: str
    spec: ExecutionSpec
    limit: str | None = None
    parent_close: str | None = None
    unique_key: str | None = None
    on_conflict: str | None = None
    digest: str | None = None
    idempotency_key: str | None = None
    again: bool = False

    def cost(self) -> int:
        return (
            1 + (len(self.spec.capabilities) + 2) // 3
        )  # a set that is new is put where workers look for it


@op("scheduler", by="execution_id")
class Get(Op[Record], kw_only=True):
    execution_id: str


@op("scheduler", by="execution_id")
class Wait(Op[Record], kw_only=True):
    """As Get; the end of one that goes on gives a `done` hint."""

    execution_id: str


@op("scheduler", by="execution_id", weight=24)
class History(Op[list[Any]], kw_only=True):
    """The next events: [offset behind the last, whether there are more, events…], each as it is kept: a list.

    seq: of the event before the first, 0 at the start; offset: in bytes, where that ended.
    """

    execution_id: str
    seq: int
    offset: int
    limit: int


@op("scheduler", weight=PAGE)
class List(Op[Slice[Record]], kw_only=True):
    """A page, newest first, looking at no more than `budget` executions. tag: a name, or name=value."""

    namespace: str | None = None
    lane: str | None = None
    kind: str | None = None
    state: str | None = None
    flow_id: str | None = None
    tag: str | None = None
    cursor: str | None = None
    limit: int
    budget: int
