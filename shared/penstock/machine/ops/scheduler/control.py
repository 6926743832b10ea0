"""Operations that steer or replay an execution, and those on idempotency keys of executions in other partitions."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from penstock.machine.op import Op, op
from penstock.messages.common import Record
from penstock.messages.control import Replayed


@op("scheduler", by="execution_id")
class RunNow(Op[Record], kw_only=True):
    execution_id: str


@op("scheduler", by="execution_id")
class ChangePriority(Op[Record], kw_only=True):
    execution_id: str
    priority: int


@op("scheduler", by="execution_id")
class SetTags(Op[Record], kw_only=True):
    execution_id: str
    tags: dict[str, str]


class ReplayDone(Replayed, kw_only=True):
    """The new execution. If `edge_inputs` is set, none was made: merge them into `input` and call again."""

    execution_id: str = ""
    state: str = ""
    input: str | UnsetType | None = UNSET
    edge_inputs: list[tuple[str, str]] | UnsetType = UNSET


@op("scheduler", by="execution_id")
class Replay(Op[ReplayDone], kw_only=True):
    """Create an execution with the spec of an ended one. override: `input` replaces the old input (None is null)."""

    id: str
    again: bool = False
    execution_id: str
    override: bool = False
    input: str | None = None
    traceparent: str | None = None


class Remembered(Struct):
    """The execution id settled for a key, and the first reply, once the execution was made."""

    execution_id: str
    reply: dict[str, Any] | None = None


@op("scheduler")
class Remember(Op[Remembered], kw_only=True):
    """Keep an idempotency key with the id of its execution, which will be created in another partition after this."""

    verb: str
    namespace: str
    key: str
    digest: str
    execution_id: str


@op("scheduler")
class Settle(Op[None], kw_only=True):
    """Store the reply under a key of Remember, after the execution was made."""

    verb: str
    namespace: str
    key: str
    digest: str
    reply: Struct


@op("scheduler")
class Forget(Op[None], kw_only=True):
    """Free a key of Remember, because the execution was refused."""

    verb: str
    namespace: str
    key: str
