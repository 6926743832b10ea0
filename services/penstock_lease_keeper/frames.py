"""lease.frame and frame.read: what a worker puts out while it works. Each frame is stored, then published live."""

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw
from nats.aio.client import Client
from nats.errors import Error as NatsError

from penstock.bus.endpoints import Call
from penstock.errors import PenstockError
from penstock.ids import partition_of
from penstock.messages.frames import Frame, FrameRead, LeaseFrame
from penstock.store import Store
from penstock.subjects import frame_subject
from penstock_lease_keeper.leases import fenced

log: Final = logging.getLogger(__name__)
_encode: Final = msgspec.json.Encoder().encode


class Frames:
    """Handlers about frames."""

    def __init__(self, store: Store, nats: Client, root: str) -> None:
        self._store = store
        self._nats = nats
        self._root = root

    async def append(self, call: Call[LeaseFrame]) -> Sequence[Any]:
        replies = await fenced(self._store, "frame", call.items)
        for item, reply in zip(call.items, replies, strict=True):
            if not isinstance(reply, PenstockError):
                at = reply.pop("at")
                if not reply.get("duplicate"):
                    await self._publish(item, reply["index"], at)
        return replies

    async def _publish(self, item: LeaseFrame, index: int, at: int) -> None:
        """Best effort: whoever follows notices a gap, and reads it."""
        frame = Frame(
            execution_id=item.execution_id,
            attempt_index=item.attempt_index,
            index=index,
            frame_type=item.frame_type,
            payload=_raw(item.payload),
            metadata=_raw(item.metadata),
            at=at,
        )
        try:
            await self._nats.publish(frame_subject(self._root, item.execution_id), _encode(frame))
        except NatsError as error:
            log.warning("a frame of %s was not published live: %s", item.execution_id, error)

    async def read(self, call: Call[FrameRead]) -> Sequence[Any]:
        item = call.items[0]
        after = item.after if item.cursor is None else int(item.cursor)
        args = {
            "execution_id": item.execution_id,
            "attempt_index": item.attempt_index,
            "after": after,
            "limit": item.limit,
        }
        reply = await self._store.call(partition_of(item.execution_id), "frame_read", args)
        frames = [
            {
                "execution_id": item.execution_id,
                "index": index,
                "attempt_index": attempt_index,
                "frame_type": frame_type,
                "at": at,
                "payload": payload,
                "metadata": metadata,
            }
            for index, attempt_index, frame_type, at, payload, metadata in reply["items"]
        ]
        return [{"items": frames, "cursor": str(reply["last"]) if reply["more"] else None}]


def _raw(text: Any) -> Raw:
    """By now a payload is its JSON text, or None for null."""
    return Raw(text or "null")
