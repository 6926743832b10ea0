"""Operations that hand work out to workers under the limits, and take back what was not delivered."""

from collections.abc import Sequence

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op
from penstock.machine.ops.common import Task
from penstock.messages.common import StateReply
from penstock.store.caller import MOST

_OF_EXECUTIONS = MOST * 5 // 8
"""The most weight of a hand-out: less than an FCALL's, because creates of the same work often share the FCALL."""


def _cost(max_: int | None, ids: Sequence[str] | None, lanes: Sequence[str] | None) -> int:
    """Return the cost of a hand-out: the number of executions named or asked for, at most _OF_EXECUTIONS. Of the lanes
    that are searched, each costs half as much, even without work."""
    return min(_OF_EXECUTIONS, max(1, max_ or 0 if ids is None else len(ids))) + len(lanes or ()) // 2


class Head(Struct, array_like=True):
    """An execution that a worker would get. score: lower is sooner; turns: how many turns its fairness key had."""

    execution_id: str
    fairness_key: str
    score: float
    turns: int


class HeadsHere(Struct):
    """Heads per lane, best first. more: lanes that may have more executions than were examined."""

    lanes: list[list[Head]]
    more: dict[str, bool] = {}


@op("scheduler")
class Heads(Op[HeadsHere], kw_only=True):
    """Return what a worker would get in this partition, to be compared with other partitions."""

    lanes: Sequence[str]
    capabilities: Sequence[str]
    kinds: Sequence[str] | None = None
    max: int

    def cost(self) -> int:
        return _cost(self.max, None, self.lanes)


class Granted(Struct, array_like=True):
    """The right to claim an execution until `expires_at`.

    remote: tokens kept in other partitions; before the claim, Admit must take room there under the slot name `slot`.
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
    """Grant up to `max` ready executions to a worker, or those of `ids`, which were chosen over all partitions.

    turns: per lane, the fairness keys' turns over all partitions, as lists of [key, turns].
    """

    worker_id: str
    lanes: Sequence[str] | None = None
    capabilities: Sequence[str] | None = None
    kinds: Sequence[str] | None = None
    max: int | None = None
    ids: list[str] | None = None
    turns: dict[str, list[tuple[str, int]]] | None = None

    def cost(self) -> int:
        return _cost(self.max, self.ids, self.lanes)


class Taker(Struct):
    """A worker that asks for tasks."""

    worker_id: str
    max: int
    lease_ttl_ms: int
    start: bool


class Given(Struct):
    """Per taker: tasks, and grants of executions that still need room in other partitions. more: as in HeadsHere."""

    tasks: list[list[Task]]
    grants: list[list[Granted]]
    more: dict[str, bool] = {}


@op("scheduler")
class HandOut(Op[Given], kw_only=True):
    """Lease (and start) ready executions for workers of equal profiles: in turns, or `ids` as `to` says.

    to: the taker of each id, counted from 1; turns: as in Grant.
    """

    takers: list[Taker]
    lanes: Sequence[str] | None = None
    capabilities: Sequence[str] | None = None
    kinds: Sequence[str] | None = None
    max: int | None = None
    ids: list[str] | None = None
    to: list[int] | None = None
    turns: dict[str, list[tuple[str, int]]] | None = None

    def cost(self) -> int:
        return _cost(self.max, self.ids, self.lanes)


class Holding(Struct):
    """The error code of what holds work back, and the milliseconds until the work may go on."""

    code: str
    wait_ms: int


@op("scheduler")
class Held(Op[Holding | None], kw_only=True):
    """Return what holds work of these lanes back from this worker, or None."""

    lanes: Sequence[str]
    capabilities: Sequence[str]
    kinds: Sequence[str] | None = None

    def cost(self) -> int:
        return 1 + len(self.lanes) // 4


class Block(Struct):
    """A token without room: its error code, and the time at which to look again."""

    code: str
    until_at: int
    token: str


@op("scheduler")
class Admit(Op[Block | None], kw_only=True):
    """Take room in the tokens of `limit` that are kept here. asker: the partition to notify when there is room."""

    limit: str
    slot: str | None
    expires_at: int
    asker: int


@op("scheduler", by="execution_id")
class Ungrant(Op[None], kw_only=True):
    """Take a grant back because another partition had no room, and set its queue aside."""

    execution_id: str
    grant_id: str
    full: Block


@op("scheduler")
class Slot(Op[None], kw_only=True):
    """Keep a slot of a token kept here until `expires_at`, or free it (0). began: whether its holder ever ran."""

    token: str
    slot: str
    expires_at: int
    began: bool = False


class SlotEnd(Struct):
    expires_at: int


@op("scheduler")
class SlotEnds(Op[SlotEnd], kw_only=True):
    """Return until when an execution of this partition holds a slot, or 0 if none holds it."""

    slot: str


class Left(Struct):
    left: bool


@op("scheduler")
class Unblock(Op[Left], kw_only=True):
    """Wake up to `room` executions because a token in another partition has room. Return whether others still wait."""

    token: str
    room: int


@op("scheduler")
class WaitRoom(Op[None], kw_only=True):
    """Note that executions of partition `waiter` still wait for a token kept here."""

    token: str
    waiter: int


@op("scheduler", by="execution_id")
class GiveBack(Fenced[StateReply], kw_only=True):
    """Return a task that its worker never got to its queue, without using an attempt."""


class Refused(Struct):
    outcome: str


@op("scheduler", by="execution_id")
class Refuse(Fenced[Refused], kw_only=True):
    """Fail an execution for good, because its task cannot be sent to any worker."""

    reason: str
    category: str
