"""Watches how full the audit stream is, for the log and the metrics: its oldest events must not go unnoticed."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from penstock.audit import Room, room
from penstock.throttle import Throttle

LOOK_S: Final = 30.0
TELL_S: Final = 3600.0
DAY_S: Final = 86_400.0


class RoomWatch:
    """Looks at the stream regularly while this relay leads, and logs an error each hour before the oldest events go.

    Once they go it is a warning a day, as a trail that is bounded by age always loses some.
    """

    def __init__(self, nats: Client, stream: str, leads: Callable[[], bool], log: Any) -> None:
        self.seen: Room | None = None
        self._nats = nats
        self._stream = stream
        self._leads = leads
        self._log = log
        self._filling, self._losing = Throttle(TELL_S), Throttle(DAY_S)

    def full(self) -> float:
        """Return the share of the stream's bound that is used up, as last seen (see `Room.full`)."""
        return self.seen.full if self.seen else 0.0

    def bytes(self) -> int:
        return self.seen.bytes if self.seen else 0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if self._leads() and self._nats.is_connected:
                await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        try:
            self.seen = await room(self._nats, self._stream)
        except (NatsError, TimeoutError):  # the relay itself says when JetStream is away
            return
        if self.seen is None or not (warning := self.seen.warning()):
            return
        loses = self.seen.first_seq > 1
        if (self._losing if loses else self._filling).passes():
            tell = self._log.warning if loses else self._log.error
            tell(warning, stream=self._stream, bytes=self.seen.bytes)
