"""lease.frame and frame.read: output of a worker while it works. Each frame is stored, then published live."""

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw
from nats.aio.client import Client
from nats.errors import Error as NatsError

from penstock.bus.calls import Call
from penstock.errors import PenstockError
from penstock.machine import Machine
from penstock.machine.ops import lease_keeper as ops
from penstock.messages.frames import Frame, FrameRead, FrameStored, LeaseFrame
from penstock.subjects import frame_subject

log: Final = logging.getLogger(__name__)
_encode: Final = msgspec.json.Encoder().encode


class Frames:
    """Handlers for frames."""

    def __init__(self, machine: Machine, nats: Client, root: str) -> None:
        self._machine = machine
        self._nats = nats
        self._root = root

    async def append(self, call: Call[LeaseFrame]) -> Sequence[Any]:
        replies = await self._machine.run_many([ops.Frame.of(item) for item in call.items])
        results: list[FrameStored | PenstockError] = []
        for item, reply in zip(call.items, replies, strict=True):
            if isinstance(reply, PenstockError):
                results.append(reply)
                continue
            if not reply.duplicate:
                await self._publish(item, reply.index, reply.at)
            results.append(FrameStored(index=reply.index, count=reply.count, duplicate=reply.duplicate))
        return results

    async def _publish(self, item: LeaseFrame, index: int, at: int) -> None:
        """Publish the frame live, as best effort: a follower that notices a gap reads the missing frames."""
        frame = Frame(
            execution_id=item.execution_id,
            attempt_index=item.attempt_index,
            index=index,
            frame_type=item.frame_type,
            raw_payload=_raw(item.payload),
            raw_metadata=_raw(item.metadata),
            at=at,
        )
        try:
            await self._nats.publish(frame_subject(self._root, item.execution_id), _encode(frame))
        except NatsError as error:
            log.warning("a frame of %s was not published live: %s", item.execution_id, error)

    async def read(self, call: Call[FrameRead]) -> Sequence[Any]:
        item = call.items[0]
        after = item.after if item.cursor is None else int(item.cursor)
        found = await self._machine.run(ops.FrameRead.of(item, after=after))
        frames = [
            Frame(
                execution_id=item.execution_id,
                index=kept.index,
                attempt_index=kept.attempt_index,
                frame_type=kept.frame_type,
                at=kept.at,
                raw_payload=Raw(kept.payload),
                raw_metadata=Raw(kept.metadata),
            )
            for kept in found.items
        ]
        return [{"items": frames, "cursor": str(found.last) if found.more else None}]


def _raw(text: Any) -> Raw:
    """Wrap a payload as raw JSON. The request decoder made it JSON text, or None for null."""
    return Raw(text or "null")
