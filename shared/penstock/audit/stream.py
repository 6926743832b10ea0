"""Read the audit stream, or another with direct gets, from JetStream without creating a consumer."""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.errors import NotFoundError

from penstock.audit.verifier import Report, Verifier
from penstock.bus.listening import listen

PAGE: Final = 1000
PAGE_TIMEOUT_S: Final = 15.0
_OF_THE_GET: Final = (
    "Nats-Stream",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
    "Nats-UpTo-Sequence",
)
"""Headers that a direct get adds to the message's own."""


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


class Stored(NamedTuple):
    """A message as the stream holds it. `headers`: its own, without those of the direct get."""

    seq: int
    subject: str
    headers: dict[str, str]
    body: bytes


async def pages(
    nats: Client, stream: str, first_seq: int, last_seq: int
) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Yield the stream's messages in order, as pages of (stream sequence, body); no consumer is created.

    Raise NoRespondersError if the stream cannot be read, TimeoutError if a page takes over `PAGE_TIMEOUT_S`.
    """
    async for page in _pages(nats, stream, first_seq, last_seq):
        yield [(int(message.headers["Nats-Sequence"]), message.data) for message in page if message.headers]


async def stored(nats: Client, stream: str, first_seq: int, last_seq: int) -> AsyncIterator[list[Stored]]:
    """As `pages`, but with the messages' subjects and headers."""
    async for page in _pages(nats, stream, first_seq, last_seq):
        yield [_stored(message) for message in page]


async def backwards(nats: Client, stream: str, first_seq: int, last_seq: int) -> AsyncIterator[list[Stored]]:
    """As `stored`, but the newest page first. Messages within a page are oldest first."""
    while last_seq >= first_seq:
        begin = max(first_seq, last_seq - PAGE + 1)
        messages: list[Stored] = []
        async for page in stored(nats, stream, begin, last_seq):
            messages += page
        yield messages
        last_seq = begin - 1


async def find(nats: Client, stream: str, at: float) -> int:
    """Return the sequence of the first message that the stream stored at or after `at` (seconds since the epoch).

    A message's time never falls from one to the next, so a binary search finds it. If there is none, return the last
    sequence + 1.
    """
    js = nats.jetstream()
    state = (await js.stream_info(stream)).state
    low, high = max(state.first_seq, 1), state.last_seq + 1
    while low < high:
        middle = (low + high) // 2
        try:
            message = await js.get_msg(stream, middle)
        except NotFoundError:  # it has left the stream meanwhile
            low = middle + 1
            continue
        assert message.time is not None
        if message.time.timestamp() < at:
            low = middle + 1
        else:
            high = middle
    return low


def _stored(message: Msg) -> Stored:
    headers = dict(message.headers or {})
    seq, subject = int(headers.pop("Nats-Sequence")), headers.pop("Nats-Subject")
    for name in _OF_THE_GET:
        headers.pop(name, None)
    return Stored(seq, subject, headers, message.data)


async def _pages(nats: Client, stream: str, first_seq: int, last_seq: int) -> AsyncIterator[list[Msg]]:
    inbox = nats.new_inbox()
    page: list[Msg] = []
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def take(message: Msg) -> None:
        headers = message.headers or {}
        if "Nats-Sequence" in headers:
            page.append(message)
        elif not ended.done():
            ended.set_result(headers.get("Status", ""))

    subscription = await listen(nats, inbox, take)
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
            last = int((page[-1].headers or {})["Nats-Sequence"])
            while page and int((page[-1].headers or {})["Nats-Sequence"]) > last_seq:
                page.pop()
            yield page
            first_seq = last + 1
    finally:
        await subscription.unsubscribe()
