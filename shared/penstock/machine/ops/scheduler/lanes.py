"""Lanes: partition 0 decides on a lane's status, the others follow."""

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Now


class Known(Struct):
    known: bool


@op("scheduler")
class LaneKnown(Op[Known], kw_only=True):
    """Whether the lane ever had an execution in this partition."""

    lane: str


class LaneStatus(Struct):
    status: str
    version: int


@op("scheduler")
class LaneChange(Op[LaneStatus], kw_only=True):
    """Decides. status: active, paused or draining."""

    lane: str
    status: str
    reason: str


class LaneDepth(Struct, kw_only=True):
    """A lane as one partition has it: how many executions, per state, and since when the oldest ready one waits."""

    lane: str
    status: str
    depth: dict[str, int]
    oldest_ready_at: int | None = None


class LanesHere(Now):
    items: list[LaneDepth]


@op("scheduler")
class LaneFollow(Op[LanesHere], kw_only=True):
    """Does what was decided; answers the lane."""

    lane: str
    status: str
    version: int


@op("scheduler", weight=PAGE)
class Lanes(Op[LanesHere], kw_only=True):
    """The first `limit` lanes after `cursor`, in alphabetical order."""

    cursor: str | None = None
    limit: int
