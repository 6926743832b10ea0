"""Messages about frames: output of a running task, stored in order, and published live."""

from typing import Annotated

from msgspec import Meta, Raw

from penstock.messages.common import (
    MAX_INT,
    Fence,
    Id,
    Kind,
    Limit,
    PlaceCursor,
    Reply,
    Request,
    decoded,
    raw,
)

Index = Annotated[int, Meta(ge=0, le=MAX_INT)]


class LeaseFrame(Fence, kw_only=True):
    """Add a frame. position: its number in the lease, from 1; a repeat is not stored, and gets the first reply."""

    frame_type: Kind
    payload: Raw = raw()
    metadata: Raw = raw()
    position: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None


class FrameStored(Reply, kw_only=True, omit_defaults=True):
    """The frame's index among the execution's frames, from 1, and their number."""

    index: int
    count: int
    duplicate: bool = False


class FrameRead(Request, kw_only=True):
    """Read frames, oldest first, after the index `after` or after a cursor."""

    execution_id: Id
    attempt_index: Index | None = None
    after: Index = 0
    cursor: PlaceCursor | None = None
    limit: Limit = 100


class Frame(Reply, kw_only=True, dict=True):
    """One frame, in the form of frame.read and of the live subject."""

    execution_id: str
    attempt_index: int
    index: int
    frame_type: str
    raw_payload: Raw = raw("payload")
    raw_metadata: Raw = raw("metadata")
    at: int

    payload = decoded("payload")
    metadata = decoded("metadata")
