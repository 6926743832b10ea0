"""Answer those who wait for an execution's end (`execution.wait`, `.execute`), in the process whose call has ended it.

Without this, that process would tell the scheduler at which a caller waits, and the scheduler the caller: one more
process to wake for each result.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from penstock import verbs
from penstock.bus.codec import codec_of
from penstock.bus.sending import post
from penstock.machine.replies import inside
from penstock.messages.common import Record

log: Final = logging.getLogger(__name__)

_record: Final = inside(Record)


class Ends:
    """The sender of records to those who wait for them."""

    def __init__(self, nats: Client) -> None:
        self._nats = nats
        self._codec = codec_of(verbs.EXECUTION_WAIT)
        self._sending: set[asyncio.Task[None]] = set()

    def answer(self, ended: Sequence[tuple[Any, list[str]]]) -> list[tuple[str, list[str]]]:
        """Send each record to its reply subjects, which a scheduler has checked. Return ids and subjects."""
        told: list[tuple[str, list[str]]] = []
        for packed, replies in ended:
            record = msgspec.convert(packed, _record)
            body, headers = self._codec.encode([record], True, self._nats.max_payload)
            for reply in replies:
                if headers or not post(self._nats, reply, body):
                    sending = asyncio.get_running_loop().create_task(self._publish(reply, body, headers))
                    self._sending.add(sending)
                    sending.add_done_callback(self._sending.discard)
            told.append((record.execution_id, replies))
        return told

    async def _publish(self, reply: str, body: bytes, headers: dict[str, str] | None) -> None:
        try:
            await self._nats.publish(reply, body, headers=headers)
        except NatsError as error:  # the caller asks again
            log.warning("the end of an execution could not be told: %s", error)
