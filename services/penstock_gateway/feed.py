"""The audit events of the stream `AUDIT`, in its order, for all event streams of a gateway.

Events are read from JetStream, with direct gets: so each has its sequence, and none comes before it is stored. What
NATS tells live only says when to read. The newest events are kept in memory, so that one read serves all clients; a
client that is further behind has its own reads. So no client makes another one wait, and none misses anything.
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.js import errors as js_errors

from penstock.audit import stream
from penstock.backoff import Backoff
from penstock.bus.connection import Connection
from penstock.bus.listening import listen
from penstock.bus.streams import AUDIT, stream_name

log: Final = logging.getLogger("penstock.gateway")

KEPT: Final = 2000
KEPT_BYTES: Final = 8 * 2**20
"""The newest events that are kept in memory; up to twice as many for a moment."""
LOOK_S: Final = (0.005, 1.0)
"""Seconds until the first and the later looks for an event that was heard and is not stored yet."""
SUSPICIOUS_S: Final = 0.5
"""A pause after which the stream is asked whether it still has what was read."""
SWEEP_S: Final = 1.0
"""Seconds after which the stream is read although nothing was heard: NATS may have been away for a moment."""
UNREACHABLE: Final = (nats_errors.Error, js_errors.Error, OSError, TimeoutError)
"""What reading the stream raises while NATS or JetStream is away."""


class Event(msgspec.Struct, frozen=True):
    """What the gateway looks at in an event."""

    event_id: str
    id: str
    at: int


class Stored(NamedTuple):
    """A message of the stream. event: None if somebody has published what is no audit event."""

    seq: int
    about: tuple[str, ...]
    """Its namespace, entity, event and id: what filters compare."""
    event: Event | None
    body: bytes


class State(NamedTuple):
    """The sequences of the first event that is kept and of the last one."""

    first: int
    last: int


_event: Final = msgspec.json.Decoder(Event).decode


class Feed:
    """Reads the stream while anybody follows it."""

    def __init__(self, nats: Connection, root: str) -> None:
        self.last = 0
        """The sequence of the newest event that was read."""
        self.losses = 0
        """How often the stream was another one than before."""
        self._nats = nats
        self._root = root
        self._stream = stream_name(root, AUDIT)
        self._newest: list[Stored] = []
        self._bytes = 0
        self._followers = 0
        self._reading: asyncio.Task[None] | None = None
        self._began: asyncio.Future[None] | None = None
        self._heard: str | None = None
        """The id of the event that was heard last and is not read yet."""
        self._told = asyncio.Event()
        self._news = asyncio.Event()

    async def state(self) -> State:
        """Return how far the stream goes now. Raise one of UNREACHABLE."""
        state = (await self._nats.jetstream().stream_info(self._stream)).state
        return State(state.first_seq, state.last_seq)

    def join(self) -> None:
        """Have the stream read, until as many have left as have joined."""
        self._followers += 1
        if self._reading is None:
            self._began = asyncio.get_running_loop().create_future()
            self._reading = asyncio.create_task(self._read(self._began))

    async def begun(self) -> None:
        """Return once the stream is read. Raise one of UNREACHABLE."""
        assert self._began is not None
        await asyncio.shield(self._began)

    def leave(self) -> None:
        """See `join`."""
        self._followers -= 1
        if self._followers == 0 and self._reading is not None:
            self._reading.cancel()
            self._reading = None
            self._forget()

    async def news(self, seq: int, patience: float) -> None:
        """Return when there is an event after `seq`, or after `patience` seconds."""
        if self.last > seq:
            return
        await _within(patience, self._news)

    async def after(self, seq: int) -> Sequence[Stored]:
        """Return some of the events after `seq`, in order; none only if there are none. Raise one of UNREACHABLE.

        The first one is not `seq` + 1 if the stream keeps that no more.
        """
        if self.last <= seq:
            return ()
        if self._newest and self._newest[0].seq <= seq + 1:
            first = bisect_right(self._newest, seq, key=_seq)
            return self._newest[first : first + stream.PAGE]
        return await self._page(seq + 1, min(seq + stream.PAGE, self.last))

    async def _page(self, first: int, last: int) -> list[Stored]:
        pages = stream.stored(self._nats, self._stream, first, last)
        try:
            async for page in pages:
                return [_of(each) for each in page]
            return []
        finally:
            await pages.aclose()  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]

    async def _read(self, began: "asyncio.Future[None]") -> None:
        subscription, self._heard = None, None
        backoff = Backoff(*LOOK_S)
        try:
            try:
                subscription = await listen(self._nats, f"{self._root}.audit.*.*.*.*", self._on_live)
                await self._nats.flush()
                self.last = (await self.state()).last
            except UNREACHABLE as error:
                self._reading = None
                began.set_exception(error)
                began.exception()
                return
            began.set_result(None)
            while True:
                self._told.clear()
                try:
                    found = await self._page(self.last + 1, self.last + stream.PAGE)
                    if found:
                        self._take(found)
                        backoff.reset()
                        continue
                    pause = SWEEP_S if self._heard is None else backoff.next_s()
                    if pause > SUSPICIOUS_S:
                        self._compare(await self.state())
                except UNREACHABLE as error:
                    log.warning("the audit stream cannot be read", extra={"reason": repr(error)})
                    pause = LOOK_S[1]
                # While something was heard that is not stored yet, more that is heard changes nothing.
                await _within(pause, self._told if self._heard is None else None)
        finally:
            if subscription is not None and not self._nats.is_closed:
                await subscription.unsubscribe()

    def _compare(self, state: State) -> None:
        """Begin anew if the stream is another one: it was lost, and made again."""
        if state.last < self.last:
            log.error("the audit stream has lost events", extra={"last": state.last, "read": self.last})
            self.last = state.last
            self.losses += 1
            self._forget()

    def _take(self, found: list[Stored]) -> None:
        if self._heard in {each.event.event_id for each in found if each.event}:
            self._heard = None
        self._newest += found
        self._bytes += sum(len(each.body) for each in found)
        while len(self._newest) > 2 * KEPT or self._bytes > 2 * KEPT_BYTES:
            half = len(self._newest) // 2 + 1
            self._bytes -= sum(len(each.body) for each in self._newest[:half])
            del self._newest[:half]
        self.last = found[-1].seq
        self._news.set()
        self._news.clear()  # who waits now has been woken

    def _forget(self) -> None:
        self._newest.clear()
        self._bytes = 0

    def _on_live(self, msg: Msg) -> None:
        try:
            self._heard = _event(msg.data).event_id
        except msgspec.MsgspecError:
            return
        self._told.set()


async def _within(seconds: float, event: asyncio.Event | None) -> None:
    """Wait for the event, at most this long."""
    if event is None:
        await asyncio.sleep(seconds)
        return
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _seq(each: Stored) -> int:
    return each.seq


def _of(message: stream.Stored) -> Stored:
    try:
        event = _event(message.body)
    except msgspec.MsgspecError:
        event = None
    about = tuple(message.subject.split(".")[-3:])
    return Stored(message.seq, (*about, event.id if event else ""), event, message.body)
