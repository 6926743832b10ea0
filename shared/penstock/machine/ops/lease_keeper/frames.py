"""The lease-keeper's operations that store and read frames."""

from msgspec import Struct

from penstock.machine.op import Fenced, Op, op


class Stored(Struct):
    """A stored frame's place among its execution's frames (from 1), their number, and the time it was stored."""

    index: int
    count: int
    at: int
    duplicate: bool = False


@op("lease_keeper", by="execution_id")
class Frame(Fenced[Stored], kw_only=True):
    """payload, metadata: JSON text, None for null. position: the frame's number in the lease, to detect repeats."""

    frame_type: str
    payload: str | None = None
    metadata: str | None = None
    position: int | None = None


class KeptFrame(Struct, array_like=True):
    """payload, metadata: JSON text."""

    index: int
    attempt_index: int
    frame_type: str
    at: int
    payload: str
    metadata: str


class FramesRead(Struct):
    """last: the last index that was examined."""

    items: list[KeptFrame]
    last: int
    more: bool


@op("lease_keeper", by="execution_id", weight=24)
class FrameRead(Op[FramesRead], kw_only=True):
    """Return frames in order, after index `after`; only those of `attempt_index`, if it is given."""

    execution_id: str
    attempt_index: int | None = None
    after: int
    limit: int
