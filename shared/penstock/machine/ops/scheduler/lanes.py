"""Operations on lanes. Partition 0 decides a lane's status; the other partitions copy it."""

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Now


class Known(Struct):
    known: bool


@op("scheduler")
class LaneKnown(Op[Known], kw_only=True):
    """Return whether the lane ever had an execution in this partition."""

    lane: str


class LaneStatus(Struct):
    status: str
    version: int


@op("scheduler")
class LaneChange(Op[LaneStatus], kw_only=True):
    """Decide a lane's status (in partition 0). status: active, paused or draining."""

    lane: str
    status: str
    reason: str


class LaneDepth(Struct, kw_only=True):
    """A lane in one partition. depth: executions per state; oldest_ready_at: since when the oldest ready one waits."""

    lane: str
    status: str
    depth: dict[str, int]
    oldest_ready_at: int | None = None


class LanesHere(Now):
    items: list[LaneDepth]


@op("scheduler")
class LaneFollow(Op[LanesHere], kw_only=True):
    """Apply the status that partition 0 decided. Return the lane."""

    lane: str
    status: str
    version: int


@op("scheduler", weight=PAGE)
class Lanes(Op[LanesHere], kw_only=True):
    """Return the first `limit` lanes after `cursor`, in alphabetical order."""

    cursor: str | None = None
    limit: int
