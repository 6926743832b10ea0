"""Sends frames in order, the frames of one event-loop tick in one message. None is lost or stored twice."""

import asyncio
import time
from typing import Final

from penstock import errors, verbs
from penstock.bus.requester import Requester
from penstock.messages.frames import FrameStored, LeaseFrame
from penstock.worker._leases import Lease

ANSWER_S: Final = 5.0
FIRST_DELAY_S: Final = 0.05
LONGEST_DELAY_S: Final = 2.0

Waiting = tuple[LeaseFrame, "asyncio.Future[FrameStored]"]


class FrameSender:
    """Sends the frames of one lease, one message at a time, so that a repeated frame keeps its position."""

    def __init__(self, requester: Requester, lease: Lease) -> None:
        self._requester = requester
        self._lease = lease
        self._stored = 0
        self._waiting: list[Waiting] = []
        self._sending: asyncio.Task[None] | None = None
        self._delay = FIRST_DELAY_S

    def append(self, frame: LeaseFrame) -> "asyncio.Future[FrameStored]":
        """Queue a frame. The future gets the reply with the frame's index, or the error."""
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[FrameStored] = loop.create_future()
        self._waiting.append((frame, stored))
        if self._sending is None:
            # The sending task first runs in the next tick, when all frames of this tick are queued.
            self._sending = loop.create_task(self._send())
        return stored

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                self._waiting = await self._deliver(batch) + self._waiting
        finally:
            self._sending = None

    async def _deliver(self, batch: list[Waiting]) -> list[Waiting]:
        """Send a batch. Return the frames to send again: from the first without a reply, or after an invalid one."""
        for place, (frame, _) in enumerate(batch, 1):
            frame.position = self._stored + place
        answers = await asyncio.gather(
            *(self._requester.send(verbs.LEASE_FRAME, frame, timeout=ANSWER_S) for frame, _ in batch),
            return_exceptions=True,
        )
        for index, ((_, stored), answer) in enumerate(zip(batch, answers, strict=True)):
            if isinstance(answer, FrameStored):
                self._stored += 1
                self._delay = FIRST_DELAY_S
                if not stored.done():
                    stored.set_result(answer)
            elif isinstance(answer, errors.UnavailableError) and self._may_try_again():
                await asyncio.sleep(self._delay)
                self._delay = min(self._delay * 2, LONGEST_DELAY_S)
                return batch[index:]
            elif isinstance(answer, errors.InvalidError):
                # This frame is invalid and fails alone; the frames after it move up one position.
                _fail(batch[index : index + 1], answer)
                return batch[index + 1 :]
            else:
                _fail(batch[index:], answer)
                return []
        return []

    def _may_try_again(self) -> bool:
        return self._lease.lost is None and time.monotonic() < self._lease.expires


def _fail(frames: list[Waiting], error: BaseException) -> None:
    for _, stored in frames:
        if not stored.done():
            stored.set_exception(error)
