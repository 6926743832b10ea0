"""Read the audit stream from JetStream with direct gets, without creating a consumer."""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from penstock.audit.verifier import Report, Verifier

PAGE: Final = 1000
PAGE_TIMEOUT_S: Final = 15.0


async def verify(nats: Client, stream: str, progress: Callable[[int, int], object] | None = None) -> Report:
    """Verify the whole stream as it is now, from its first message to its last.

    Call `progress(done, total)` after each page. Raise the NATS error if the stream cannot be read.
    """
    info = await nats.jetstream().stream_info(stream)
    last_seq, total = info.state.last_seq, info.state.messages
    verifier = Verifier()
    async for page in pages(nats, stream, info.state.first_seq, last_seq):
        for stream_seq, body in page:
            verifier.feed(stream_seq, body)
        if progress is not None:
            progress(verifier.report.events, max(total, verifier.report.events))
    return verifier.finish(last_seq)


async def pages(
    nats: Client, stream: str, first_seq: int, last_seq: int
) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Yield the stream's messages in order, as pages of (stream sequence, body); no consumer is created.

    Raise NoRespondersError if the stream cannot be read, TimeoutError if a page takes over `PAGE_TIMEOUT_S`.
    """
    inbox = nats.new_inbox()
    page: list[tuple[int, bytes]] = []
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        headers = message.headers or {}
        if "Nats-Sequence" in headers:
            page.append((int(headers["Nats-Sequence"]), message.data))
        elif not ended.done():
            ended.set_result(headers.get("Status", ""))

    # No pending limits: nats-py drops messages beyond them.
    subscription = await nats.subscribe(inbox, cb=take, pending_msgs_limit=0, pending_bytes_limit=0)
    try:
        while first_seq <= last_seq:
            page, ended = [], asyncio.get_running_loop().create_future()
            ask = {"seq": first_seq, "batch": min(PAGE, last_seq - first_seq + 1)}
            await nats.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(ask), reply=inbox)
            async with asyncio.timeout(PAGE_TIMEOUT_S):
                status = await ended
            if status == "503":
                raise NoRespondersError
            if not page:
                return
            yield [message for message in page if message[0] <= last_seq]
            first_seq = page[-1][0] + 1
    finally:
        await subscription.unsubscribe()
