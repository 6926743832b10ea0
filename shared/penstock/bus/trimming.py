"""Removes from a stream what its consumer has acknowledged, many messages at a time.

A work-queue stream of JetStream removes each message when it is acknowledged. With `sync_interval: always` nats-server
then syncs its disk for each of them, while nobody else can store or take messages: that is half of what a message costs
it. So Penstock's streams keep what is acknowledged, and it is purged once in a while.
"""

# nats-py leaves the types of its options open.
# pyright: reportUnknownMemberType=false

import asyncio
import contextlib
import logging
from typing import Final

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy

log: Final = logging.getLogger("penstock.bus")

EVERY_S: Final = 0.5
LAST_S: Final = 1.0
"""The longest that `stop` waits for NATS."""
WARN_AFTER: Final = 20
"""So many tries in a row, all in vain, are worth a warning."""


class Trimming:
    """Purges a stream up to its consumer's ack floor: each message up to there has been acknowledged, by whichever
    instance took it. The stream must have no other consumer."""

    def __init__(self, js: JetStreamContext, stream: str, durable: str) -> None:
        self._js = js
        self._stream = stream
        self._durable = durable
        self._settled = 0
        self._failures = 0
        self._due = True  # an earlier process may have left something
        self._running = asyncio.get_running_loop().create_task(self._run())

    def settled(self, seq: int) -> None:
        """The message with this stream sequence has been acknowledged."""
        self._settled = max(self._settled, seq)
        self._due = True

    async def stop(self) -> None:
        """Purge once more, and end."""
        self._running.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._trim(), LAST_S)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._trim()

    async def _trim(self) -> None:
        if not self._due:
            return
        self._due = False
        try:
            await self._purge()
        except (NatsError, TimeoutError) as error:
            self._due = True
            self._failures += 1
            if self._failures % WARN_AFTER == 0:
                log.warning(
                    "%s: what is done does not leave the stream: %s", self._stream, error or "no answer"
                )
        else:
            self._failures = 0

    async def _purge(self) -> None:
        config = (await self._js.stream_info(self._stream)).config
        if config.retention != RetentionPolicy.LIMITS:
            return  # a work queue, made by an earlier version
        info = await self._js.consumer_info(self._stream, self._durable)
        floor = info.ack_floor.stream_seq if info.ack_floor else 0
        if floor:
            await self._js.purge_stream(self._stream, seq=floor + 1)
        self._due = self._due or floor < self._settled
