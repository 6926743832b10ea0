"""Signals published on `<root>.signal.<waitpoint_id>.<name>`. JetStream keeps them until they are applied here."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw
from nats.aio.msg import Msg

from penstock.bus.outcomes import Outcome
from penstock.bus.payloads import plan_of
from penstock.bus.published import outcome, read
from penstock.errors import PenstockError, make
from penstock.ids import ID_PATTERN
from penstock.messages.signals import SignalDeliver
from penstock_signal_router.signals import Delivery, Refusal, Signals

TOKEN_HEADER: Final = "penstock-token"  # noqa: S105 - a header's name
SOURCE_HEADER: Final = "penstock-source"
NO_TOKEN: Final = "-"  # noqa: S105 - it is none

_is_id = re.compile(ID_PATTERN).match
_payload = msgspec.json.Decoder(Raw).decode
_plan = plan_of(SignalDeliver)


class Published:
    """Handles the stream of published signals. A whole batch of messages is delivered at once.

    Batches may overlap: the signals of one are queued for Valkey before those of the next, so that they stay in order.
    """

    def __init__(self, signals: Signals, root: str, max_payload_bytes: int) -> None:
        self._signals = signals
        self._prefix = f"{root}.signal."
        self._limit = max_payload_bytes
        self._order = asyncio.Lock()

    async def handle(self, messages: list[Msg]) -> Sequence[Outcome]:
        async with self._order:
            asked = [self._read(message) for message in messages]
            delivering = await self._signals.begin([each for each in asked if isinstance(each, Delivery)])
        delivered = iter(await delivering)
        refused = iter(await self._signals.refuse([each for each in asked if isinstance(each, Refusal)]))
        return [outcome(next(delivered if isinstance(each, Delivery) else refused)) for each in asked]

    def _read(self, message: Msg) -> Delivery | Refusal:
        """Return the signal in a message, validated like a request, or the reason to refuse the message."""
        published = read(message, self._prefix)
        waitpoint_id, _, name = published.subject.partition(".")
        if not _is_id(waitpoint_id):
            return Refusal(make("invalid_request", "the subject names no waitpoint"))
        token = published.headers.get(TOKEN_HEADER, NO_TOKEN)
        fields: dict[str, Any] = {
            # A malformed token becomes NO_TOKEN, which is refused and audited like a wrong token.
            "token": token if 0 < len(token) <= 512 else NO_TOKEN,
            "name": name,
            "source": published.headers.get(SOURCE_HEADER),
            "signal_id": published.message_id,
        }
        try:
            signal = msgspec.convert(fields, SignalDeliver)
            if published.body.strip():
                signal.payload = _payload(published.body)
            if _plan is not None:
                _plan.to_text(signal, self._limit)
        except (msgspec.DecodeError, RecursionError) as error:
            return Refusal(make("invalid_request", f"not a signal: {error}"[:512]), waitpoint_id)
        except PenstockError as error:
            return Refusal(error, waitpoint_id)
        return Delivery(signal, waitpoint_id)
