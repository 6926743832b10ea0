"""Operations that tell why an execution does not run."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Op, op


@op("scheduler", by="execution_id")
class Explain(Op[dict[str, Any]], kw_only=True):
    """Return what an execution waits for, as known in its partition: only facts that apply (the Lua file lists all).

    `remote`: tokens that other partitions keep, for LimitUse; `queue`: the execution's place in its queue, for Ahead.
    """

    execution_id: str


class Count(Struct):
    ahead: int


@op("scheduler")
class Ahead(Op[Count], kw_only=True):
    """Count the executions before a place (`score`) in this partition's queue."""

    lane: str
    caps: str | None = None
    kind: str
    fairness_key: str | None = None
    limit: str | None = None
    score: float


@op("scheduler")
class LimitUse(Op[dict[str, Any]], kw_only=True):
    """Return the use of a token that this partition keeps: {kind, id, …}, depending on its kind."""

    token: str
