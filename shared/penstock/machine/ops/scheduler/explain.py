"""Why an execution does not run, as facts."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Op, op


@op("scheduler", by="execution_id")
class Explain(Op[dict[str, Any]], kw_only=True):
    """What it waits for, as far as its own partition knows: only those facts that there are (its Lua file lists them).

    `remote`: tokens that are kept elsewhere, for LimitUse; `queue`: its place in its queue, for Ahead.
    """

    execution_id: str


class Count(Struct):
    ahead: int


@op("scheduler")
class Ahead(Op[Count], kw_only=True):
    """How many stand before such a place in the queue of this partition."""

    lane: str
    caps: str | None = None
    fairness_key: str | None = None
    limit: str | None = None
    score: float


@op("scheduler")
class LimitUse(Op[dict[str, Any]], kw_only=True):
    """How a token that is kept here stands: {kind, id, …}, by its kind."""

    token: str
