"""Frames: what a worker puts out while it works, stored in order and followed live."""

from typing import Annotated, ClassVar

from msgspec import Meta, Raw

from penstock.messages.common import MAX_INT, Fence, Id, Kind, Limit, PlaceCursor, Reply, Request, raw

Index = Annotated[int, Meta(ge=0, le=MAX_INT)]


class LeaseFrame(Fence, kw_only=True):
    """One more frame. `position`: the lease's nth, from 1: a repeat is stored once, and answered as the first was."""

    payload_fields: ClassVar[tuple[str, ...]] = ("payload", "metadata")

    frame_type: Kind
    payload: Raw = raw()
    metadata: Raw = raw()
    position: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None


class FrameStored(Reply, kw_only=True, omit_defaults=True):
    """Its place among the execution's frames, from 1, and how many there are."""

    index: int
    count: int
    duplicate: bool = False


class FrameRead(Request, kw_only=True):
    """Oldest first, those after the index `after`, or after a cursor."""

    execution_id: Id
    attempt_index: Index | None = None
    after: Index = 0
    cursor: PlaceCursor | None = None
    limit: Limit = 100


class Frame(Reply, kw_only=True):
    """One frame, as frame.read and the live subject give it."""

    payload_fields: ClassVar[tuple[str, ...]] = ("payload", "metadata")

    execution_id: str
    attempt_index: int
    index: int
    frame_type: str
    payload: Raw = raw()
    metadata: Raw = raw()
    at: int
