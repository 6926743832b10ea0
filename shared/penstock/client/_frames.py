"""Reads an execution's frames: first the stored ones, then new ones live, without gaps or duplicates."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from penstock import verbs
from penstock.bus.listening import listen
from penstock.bus.requester import Requester
from penstock.client._run import Run
from penstock.codecs._coding import Coding
from penstock.messages.common import Record
from penstock.messages.frames import Frame, FrameRead
from penstock.subjects import frame_subject

# The longest wait for a live frame; then the store is read again, in case a live frame was lost.
LOOK_AGAIN_S: Final = 2.0
PAGE: Final = 500
_decode: Final = msgspec.json.Decoder(Frame).decode


async def stored(
    requester: Requester, execution_id: str, attempt_index: int | None, after: int
) -> AsyncIterator[Frame]:
    """Yield the frames stored now whose index is greater than `after`."""
    cursor = str(after)
    while True:
        request = FrameRead(execution_id=execution_id, attempt_index=attempt_index, cursor=cursor, limit=PAGE)
        page = await requester.call(verbs.FRAME_READ, request)
        for frame in page.items:
            yield frame
        if page.cursor is None:
            return
        cursor = page.cursor


async def followed(
    nats: Nats,
    requester: Requester,
    coding: Coding | None,
    execution_id: str,
    attempt_index: int | None,
    after: int,
) -> AsyncIterator[Frame]:
    """Yield the stored frames and then new ones, until the execution has ended.

    The subscription starts before the first read, so that no frame falls between the two. If the index of a live
    frame is not the next one, a frame was missed: then the store is read again.
    """
    live: asyncio.Queue[Frame] = asyncio.Queue()

    def heard(msg: Msg) -> None:
        live.put_nowait(_decode(msg.data))

    subscription = await listen(nats, frame_subject(requester.root, execution_id), heard)
    ended = asyncio.ensure_future(Run(requester, execution_id).wait())
    try:
        await nats.flush()
        while True:
            last_look = ended.done()
            async for frame in stored(requester, execution_id, None, after):
                after = frame.index
                if attempt_index in (None, frame.attempt_index):
                    yield frame
            if last_look:
                ended.result()
                return
            while (frame := await _next(live, ended)) is not None and frame.index <= after + 1:
                if frame.index == after + 1:
                    after = frame.index
                    if coding is not None:
                        await coding.decode(frame, Frame)
                    if attempt_index in (None, frame.attempt_index):
                        yield frame
    finally:
        ended.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await ended
        if not nats.is_closed:
            await subscription.unsubscribe()


async def _next(live: "asyncio.Queue[Frame]", ended: "asyncio.Future[Record]") -> Frame | None:
    """Return the next live frame, or None when it is time to read the store."""
    if not live.empty():
        return live.get_nowait()
    coming = asyncio.ensure_future(live.get())
    try:
        await asyncio.wait({coming, ended}, timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        return coming.result() if coming.done() else None
    finally:
        coming.cancel()
