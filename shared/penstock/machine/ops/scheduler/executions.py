"""Operations that create and read executions."""

from typing import Any

from msgspec import UNSET, UnsetType

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Slice, Task
from penstock.machine.ops.scheduler.hand_out import Taker
from penstock.messages.common import Record
from penstock.messages.executions import ExecutionCreated, ExecutionSpec
from penstock.messages.search import ExecutionRow


class Made(ExecutionCreated, kw_only=True):
    """task: the execution's task, if it was leased to the taker at once."""

    task: Task | UnsetType = UNSET


@op("scheduler", by="id")
class Create(Op[Made], kw_only=True):
    """Create an execution. again: an earlier request settled the id, so an existing execution is a duplicate.

    parent_close: None stands for cancel. on_conflict: existing, reject or replace, if there is a unique_key. taker: a
    worker that waits for such work, and gets the execution if it can begin at once. reply: the subject on which the
    creator expects the record at its end, as in Wait; nothing is sent there for a duplicate.
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
    taker: Taker | None = None
    reply: str | None = None

    def cost(self) -> int:
        return (
            1 + (len(self.spec.capabilities) + 2) // 3
        )  # a new capability set has to be indexed for workers


@op("scheduler", by="execution_id")
class Get(Op[Record], kw_only=True):
    execution_id: str


@op("scheduler", by="execution_id")
class Wait(Op[Record], kw_only=True):
    """As Get; if the execution has not ended, its end will be told (hints `ended` and `done`).

    reply: the subject that the caller expects the record on; without one, schedulers are told to look again.
    """

    execution_id: str
    reply: str | None = None


@op("scheduler", by="execution_id", weight=24)
class History(Op[list[Any]], kw_only=True):
    """Return the next events: [offset after the last, whether there are more, events…], each a list, as stored.

    seq: the event before the first one to return, 0 at the start; offset: where that event ended, in bytes.
    """

    execution_id: str
    seq: int
    offset: int
    limit: int


class FoundHere(Slice[ExecutionRow]):
    """looked: how many executions were examined."""

    looked: int = 0


@op("scheduler", weight=PAGE)
class Search(Op[FoundHere], kw_only=True):
    """Find executions, newest first, examining at most `budget`. `penstock.messages.search` describes the filter.

    text: in lower case. category: of the last failure. only: look at this execution alone. oldest: a uuid, where the
    list ends.
    """

    namespace: str | None = None
    lane: str | None = None
    kind: str | None = None
    kind_prefix: str | None = None
    states: list[str] | None = None
    flow_id: str | None = None
    parent_id: str | None = None
    tag: str | None = None
    worker_id: str | None = None
    text: str | None = None
    category: str | None = None
    min_attempts: int | None = None
    max_attempts: int | None = None
    created_from: int | None = None
    created_until: int | None = None
    finished_from: int | None = None
    finished_until: int | None = None
    only: str | None = None
    cursor: str | None = None
    oldest: str | None = None
    limit: int
    budget: int


@op("scheduler", weight=PAGE)
class List(Op[Slice[Record]], kw_only=True):
    """Return a page, newest first, examining at most `budget` executions. tag: a name, or name=value."""

    namespace: str | None = None
    lane: str | None = None
    kind: str | None = None
    state: str | None = None
    flow_id: str | None = None
    tag: str | None = None
    cursor: str | None = None
    limit: int
    budget: int
