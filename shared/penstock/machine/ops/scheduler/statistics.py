"""Operations that read statistics, which the audit-relay writes."""

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import Now


class MinuteTexts(Now):
    """texts: each a `penstock.statistics.minutes.Minute`, in no order."""

    texts: list[str] = []


@op("scheduler", weight=12)
class LaneMinutes(Op[MinuteTexts], kw_only=True):
    """Return a lane's minutes of the last day. lane: `*` for all lanes together."""

    lane: str


class GroupTexts(Struct):
    """texts: each a `penstock.messages.statistics.FailureGroup`, the last failure first."""

    texts: list[str] = []


@op("scheduler", weight=12)
class FailureGroups(Op[GroupTexts], kw_only=True):
    """Return the failure groups. group: only the one with this id."""

    group: str | None = None
