"""Who gets what, under which limits, and what comes back undelivered."""

from collections.abc import Sequence

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op
from penstock.machine.ops.common import Task
from penstock.messages.common import StateReply
from penstock.store.caller import MOST

_OF_EXECUTIONS = MOST * 5 // 8
"""Room is left beside it: who asks for work that is just being created asks in the same FCALL."""


def _cost(max_: int | None, ids: Sequence[str] | None) -> int:
    """As many executions as are named or asked for."""
    return min(_OF_EXECUTIONS, max(1, max_ or 0 if ids is None else len(ids)))


class Head(Struct, array_like=True):
    """What a worker would get: its fairness key, its score (lower is sooner), and how many turns that key had."""

    execution_id: str
    fairness_key: str
    score: float
    turns: int


class HeadsHere(Struct):
    """Per lane, best first. more: lanes that may have more than was looked at."""

    lanes: list[list[Head]]
    more: dict[str, bool] = {}


@op("scheduler")
class Heads(Op[HeadsHere], kw_only=True):
    """What a worker would get here, to be compared with other partitions."""

    lanes: Sequence[str]
    capabilities: Sequence[str]
    max: int

    def cost(self) -> int:
        return _cost(self.max, None)


class Granted(Struct, array_like=True):
    """The right to claim an execution until `expires_at`.

    remote: tokens that are kept in other partitions, where Admit has to find room for it under the name `slot` first.
    """

    grant_id: str
    execution_id: str
    resumed: bool
    reclaim: bool
    expires_at: int
    remote: list[str] | None = None
    slot: str | None = None


class GrantsHere(Struct):
    grants: list[Granted]
    more: dict[str, bool] = {}


@op("scheduler")
class Grant(Op[GrantsHere], kw_only=True):
    """The right to claim up to `max` ready executions, or those of `ids`, which were chosen over all partitions.

    turns: per lane the fairness keys' turns over all partitions, as lists of [key, turns].
    """

    worker_id: str
    lanes: Sequence[str] | None = None
    capabilities: Sequence[str] | None = None
    max: int | None = None
    ids: list[str] | None = None
    turns: dict[str, list[tuple[str, int]]] | None = None

    def cost(self) -> int:
        return _cost(self.max, self.ids)


class Taker(Struct):
    """One who asks for tasks."""

    worker_id: str
    max: int
    lease_ttl_ms: int
    start: bool


class Given(Struct):
    """Per taker: tasks, and grants of what needs room in other partitions first. more: lanes that may have more."""

    tasks: list[list[Task]]
    grants: list[list[Granted]]
    more: dict[str, bool] = {}


@op("scheduler")
class HandOut(Op[Given], kw_only=True):
    """Ready executions, leased (and started), to workers that can do the same: by turns, or `ids` as `to` says.

    to: the taker of each, counted from 1; turns: as in Grant.
    """

    takers: list[Taker]
    lanes: Sequence[str] | None = None
    capabilities: Sequence[str] | None = None
    max: int | None = None
    ids: list[str] | None = None
    to: list[int] | None = None
    turns: dict[str, list[tuple[str, int]]] | None = None

    def cost(self) -> int:
        return _cost(self.max, self.ids)


class Holding(Struct):
    """The error that says what holds work back, and in how many milliseconds it may go on."""

    code: str
    wait_ms: int


@op("scheduler")
class Held(Op[Holding | None], kw_only=True):
    """What holds work of these lanes back from this worker, if anything does."""

    lanes: Sequence[str]
    capabilities: Sequence[str]


class Block(Struct):
    """A token without room: the error that says so, and when to look again."""

    code: str
    until_at: int
    token: str


@op("scheduler")
class Admit(Op[Block | None], kw_only=True):
    """Takes room in the tokens of `limit` that are kept here. asker: the partition that asks, to be told of room."""

    limit: str
    slot: str | None
    expires_at: int
    asker: int


@op("scheduler", by="execution_id")
class Ungrant(Op[None], kw_only=True):
    """Another partition had no room: the grant is taken back, its queue stands aside."""

    execution_id: str
    grant_id: str
    full: Block


@op("scheduler")
class Slot(Op[None], kw_only=True):
    """A slot of a token kept here lasts until `expires_at`, or ends (0). began: whether what held it ever ran."""

    token: str
    slot: str
    expires_at: int
    began: bool = False


class SlotEnd(Struct):
    expires_at: int


@op("scheduler")
class SlotEnds(Op[SlotEnd], kw_only=True):
    """Until when an execution of this partition holds a slot; 0: it does not."""

    slot: str


class Left(Struct):
    left: bool


@op("scheduler")
class Unblock(Op[Left], kw_only=True):
    """A token elsewhere has room for so many again. Answers whether others still wait here."""

    token: str
    room: int


@op("scheduler")
class WaitRoom(Op[None], kw_only=True):
    """In the partition `waiter` some still wait for a token kept here."""

    token: str
    waiter: int


@op("scheduler", by="execution_id")
class GiveBack(Fenced[StateReply], kw_only=True):
    """The worker never got the task: back to its queue, nothing used."""


class Refused(Struct):
    outcome: str


@op("scheduler", by="execution_id")
class Refuse(Fenced[Refused], kw_only=True):
    """No worker can be sent this task: it fails for good."""

    reason: str
    category: str
