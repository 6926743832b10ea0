"""Operations that tell why an execution does not run, and which limits hold work back."""

from typing import Any

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE


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


class BlockedHere(Struct):
    """Ready work that waits for room. tokens: those without room; until_at: when the next look is, at latest."""

    tokens: list[str]
    waiting: int
    lanes: list[str]
    sample: list[str]
    until_at: int


class BlocksHere(Struct):
    """more: there are further blocks, which were not looked at."""

    items: list[BlockedHere]
    more: bool


@op("scheduler", weight=PAGE)
class LimitsBlocked(Op[BlocksHere], kw_only=True):
    """Return at most `limit` blocks of this partition. lane: only those that hold back work of this lane."""

    lane: str | None = None
    limit: int


class Holders(Struct):
    ids: list[str] = []


@op("scheduler")
class LimitHolders(Op[Holders], kw_only=True):
    """Return some executions that hold slots of a token that this partition keeps."""

    token: str
