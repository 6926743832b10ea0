"""What arrives from nats-server, taken in the tick in which it arrives.

nats-py reads through a stream, a parser, a queue and a task for each subscription: three turns of the event loop until
a callback has its message, a tenth of the processor time of a service that is woken for one message. `Incoming` stands
before it and takes out the messages of the subscriptions that `listening.py` makes. Everything else (PING, INFO,
errors, messages of other subscriptions) goes on to nats-py, byte for byte.

The protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

log: Final = logging.getLogger("penstock.bus")

Take = Callable[[Msg], None]
"""Called with a message in the tick of its arrival. It must not wait."""

_LINE_END: Final = b"\r\n"
_HEADER_LINE: Final = b"NATS/1.0"
_STATUS_DIGITS: Final = 3


class Takers:
    """Who takes the messages of which subscription of a connection, and what is to be done at the end of a read."""

    def __init__(self) -> None:
        self.by_sid: dict[bytes, Take] = {}
        self._after: list[Callable[[], None]] = []

    def after_read(self, then: Callable[[], None]) -> None:
        """Call `then` once all messages that arrived together with the present one have been taken."""
        self._after.append(then)

    def read_ended(self) -> None:
        after, self._after = self._after, []
        for then in after:
            try:
                then()
            except Exception:
                log.exception("what came from NATS could not be handled")


class Incoming(asyncio.Protocol):
    """The protocol of a connection's socket. `streams` is nats-py's own, behind it."""

    def __init__(self, client: Client, takers: Takers, streams: asyncio.StreamReaderProtocol) -> None:
        self.paused = False
        """Whether the socket's buffer is full: what is written now should wait."""
        self._client = client
        self._takers = takers
        self._streams = streams
        self._held: list[bytes] = []
        """The beginning of something whose end has not arrived."""
        self._missing = 0
        """The bytes that have to arrive before it is worth looking again."""
        self._given_up = False
        """Whether something came that is not understood here: all goes to nats-py from then on."""

    def data_received(self, data: bytes) -> None:
        if self._held:
            self._held.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._held)
            self._held.clear()
        taken = 0 if self._given_up else self._sort(data)
        if self._given_up:
            self._streams.data_received(data[taken:])
        elif taken < len(data):
            self._held.append(data[taken:] if taken else data)
        self._takers.read_ended()

    def _sort(self, data: bytes) -> int:
        """Take out messages, and pass on the rest. Return where the part begins that is not complete."""
        at, size, by_sid = 0, len(data), self._takers.by_sid
        self._missing = 0
        while (end := data.find(_LINE_END, at)) >= 0:
            head = body = end + 2
            try:
                if data.startswith(b"MSG ", at):
                    subject, sid, *reply, length = data[at + 4 : end].split()
                elif data.startswith(b"HMSG ", at):
                    subject, sid, *reply, headers, length = data[at + 5 : end].split()
                    body += int(headers)
                else:
                    self._streams.data_received(data[at:head])
                    at = head
                    continue
                stop = head + int(length)
                if stop < body:
                    raise ValueError("a message that ends before it begins")
            except ValueError:
                self._given_up = True
                return at
            after = stop + 2
            if after > size:
                self._missing = after - size
                return at
            take = by_sid.get(sid)
            if take is None:
                self._streams.data_received(data[at:after])
            else:
                self._deliver(take, subject, reply[0] if reply else b"", data[head:body], data[body:stop])
            at = after
        return at

    def _deliver(self, take: Take, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        stats = self._client.stats
        stats["in_msgs"] += 1
        stats["in_bytes"] += len(headers) + len(payload)
        # NATS takes any bytes as a subject. What is no text is for its taker to refuse: a stream's message comes again
        # and again until it is acknowledged.
        on, to = subject.decode(errors="replace"), reply.decode(errors="replace")
        try:
            take(Msg(self._client, on, to, payload, parse_headers(headers) if headers else None))
        except Exception:
            log.exception("a message on %s could not be handled", on)

    # -- what concerns the connection is nats-py's ------------------------------------------------

    def pause_writing(self) -> None:
        self.paused = True
        self._streams.pause_writing()

    def resume_writing(self) -> None:
        self.paused = False
        self._streams.resume_writing()

    def eof_received(self) -> bool | None:
        return self._streams.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.connection_lost(exc)


def parse_headers(block: bytes) -> dict[str, str] | None:
    """Return a message's headers, None if there are none. Of a header that comes twice, the last counts.

    A status line (`NATS/1.0 503 No Responders`) becomes `Status` and `Description`, as in nats-py.
    Source: ADR-4 of nats-architecture-and-design.
    """
    first, *lines = block.split(_LINE_END)
    headers: dict[str, str] = {}
    status = first[len(_HEADER_LINE) :].strip()
    if status[:_STATUS_DIGITS].isdigit():
        headers["Status"] = status[:_STATUS_DIGITS].decode()
        if description := status[_STATUS_DIGITS:].strip():
            headers["Description"] = description.decode("utf-8", "replace")
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon and name.isascii():
            headers[name.strip().decode()] = value.strip().decode("utf-8", "replace")
    return headers or None
