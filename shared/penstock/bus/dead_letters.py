"""Dead letters: copies of messages that can never be applied, with the reason, for people to look at."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from penstock.bus.line import Line, Message
from penstock.throttle import Throttle

log: Final = logging.getLogger("penstock.bus")

REASON: Final = "Penstock-Dead-Reason"
# A published signal's token must never be kept anywhere but in the message that carries it.
_SECRET_HEADERS: Final = frozenset({"penstock-token"})
_HEADER_ROOM: Final = 4096
MOST: Final = 500
"""More than so many letters are not begun while others are under way."""

Settle = Callable[[Msg, bool], Awaitable[None]]
"""Told of each message whether its letter is stored."""


class DeadLetters:
    """Stores the dead letters of one consumer in the DEAD stream, while the consumer goes on with other messages."""

    def __init__(self, nats: Nats, root: str, consumer: str, settle: Settle) -> None:
        self._nats = nats
        self._root = root
        self._consumer = consumer
        self._settle = settle
        self._line = Line(nats)
        self._lines = Throttle()
        self._under_way: dict[asyncio.Task[None], list[Msg]] = {}

    @property
    def messages(self) -> list[Msg]:
        """Those whose letters are not stored yet."""
        return [msg for messages in self._under_way.values() for msg in messages]

    async def begin(self, dead: Sequence[tuple[Msg, str]]) -> None:
        """Begin to store a letter of each message, with the reason. Wait as long as there are too many already."""
        while len(self.messages) > MOST:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        storing = asyncio.get_running_loop().create_task(self._store(dead))
        self._under_way[storing] = [msg for msg, _ in dead]
        storing.add_done_callback(self._under_way.pop)

    async def finish(self, timeout: float) -> None:
        """Wait until all are stored, at most `timeout` seconds."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout)

    async def _store(self, dead: Sequence[tuple[Msg, str]]) -> None:
        letters = [
            dead_letter(msg, reason, self._consumer, self._root, self._nats.max_payload)
            for msg, reason in dead
        ]
        whys = await self._line.send_all(letters)
        for (msg, _), letter, why in zip(dead, letters, whys, strict=True):
            self._log(letter, why)
            await self._settle(msg, why is None)

    def _log(self, letter: Message, why: str | None) -> None:
        subject, reason = letter.subject, letter.headers[REASON]
        if why is not None:
            log.warning("%s: a dead letter could not be kept yet: %s: %s", self._consumer, subject, why)
        elif self._lines.passes():
            log.warning(
                "%s: a dead letter is stored on %s (%d more since the last such line): %s",
                self._consumer,
                subject,
                self._lines.held,
                reason,
            )
            self._lines.held = 0


def dead_letter(msg: Msg, reason: str, consumer: str, root: str, max_payload: int) -> Message:
    """Make the dead letter of a stream's message. The body is left out where it does not fit into `max_payload` bytes.

    The letter's `Nats-Msg-Id` follows from the message, so that a second copy of it is not stored.
    """
    metadata = msg.metadata
    headers = {
        name: value
        for name, value in (msg.headers or {}).items()
        if name.lower() not in _SECRET_HEADERS and not name.lower().startswith("nats-")
    }
    headers[REASON] = " ".join(reason.split())[:1024]
    headers["Nats-Msg-Id"] = f"{consumer}-{metadata.sequence.stream}-{int(metadata.timestamp.timestamp())}"
    if original := (msg.headers or {}).get("Nats-Msg-Id"):
        headers["Penstock-Message-Id"] = original
    body = msg.data
    if len(body) + sum(map(len, headers.values())) + _HEADER_ROOM > max_payload:
        headers["Penstock-Dead-Size"] = str(len(body))
        body = b""
    return Message(f"{root}.dead.{msg.subject.removeprefix(root + '.')}", body, headers)
