"""Somebody steers an execution, or runs it again; idempotency keys that lead into other partitions."""

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
    """The new execution; or, with `edge_inputs`, what the caller has to merge and come again with: nothing was made."""

    execution_id: str = ""
    state: str = ""
    input: str | UnsetType | None = UNSET
    edge_inputs: list[tuple[str, str]] | UnsetType = UNSET


@op("scheduler", by="execution_id")
class Replay(Op[ReplayDone], kw_only=True):
    """A new execution with the spec of one that has ended. override: `input` replaces the old one (None is null)."""

    id: str
    again: bool = False
    execution_id: str
    override: bool = False
    input: str | None = None


class Remembered(Struct):
    """The id that is settled for a key, and the first reply, once that was made."""

    execution_id: str
    reply: dict[str, Any] | None = None


@op("scheduler")
class Remember(Op[Remembered], kw_only=True):
    """An idempotency key whose execution will live in another partition: its id is kept here first."""

    verb: str
    namespace: str
    key: str
    digest: str
    execution_id: str


@op("scheduler")
class Settle(Op[None], kw_only=True):
    """What Remember prepared was made."""

    verb: str
    namespace: str
    key: str
    digest: str
    reply: Struct


@op("scheduler")
class Forget(Op[None], kw_only=True):
    """What Remember prepared was refused: the key is free again."""

    verb: str
    namespace: str
    key: str
