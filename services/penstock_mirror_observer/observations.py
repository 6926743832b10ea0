"""Published observations: JetStream keeps them until they are applied. One batch of messages is one store call."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.msg import Msg

from penstock.bus.codec import decode
from penstock.bus.outcomes import ACK, Outcome
from penstock.bus.published import outcome, read
from penstock.errors import PenstockError, invalid
from penstock.machine import Machine, Op
from penstock.machine.ops import mirror_observer as ops
from penstock.messages.common import Id
from penstock.messages.flows import PublishedObservation, Step
from penstock.verbs import MIRROR_OBSERVER, Verb

# No client can request this verb. It lets a published message be decoded like a request, with the same typed errors.
_PUBLISHED: Final[Verb[PublishedObservation, Step]] = Verb(
    "observation", MIRROR_OBSERVER, PublishedObservation, Step
)


class _Read(NamedTuple):
    """A decoded message: the operation to run, if any. With an `error`, the operation records the rejected message."""

    op: Op[Any] | None
    error: PenstockError | None = None


class Observations:
    """Applies the observations published on `<root>.observation.<flow_id>`."""

    def __init__(self, machine: Machine, *, root: str, max_payload_bytes: int) -> None:
        self._machine = machine
        self._prefix = f"{root}.observation."
        self._max_payload_bytes = max_payload_bytes

    async def apply(self, messages: list[Msg]) -> Sequence[Outcome]:
        """Handle a batch of the consumer. Return one outcome per message."""
        asked = [self._read(message) for message in messages]
        answers = iter(await self._machine.run_many([each.op for each in asked if each.op is not None]))
        return [_outcome(each, None if each.op is None else next(answers)) for each in asked]

    def _read(self, message: Msg) -> _Read:
        published = read(message, self._prefix)
        flow_id = published.subject
        try:
            msgspec.convert(flow_id, Id)
        except msgspec.ValidationError:
            return _Read(None, invalid("flow_id", "the subject must end in one"))
        (item,), _ = decode(_PUBLISHED, published.body, self._max_payload_bytes)
        if not isinstance(item, PenstockError) and item.flow_id not in (None, flow_id):
            item = invalid("flow_id", "the subject names another flow")
        if isinstance(item, PenstockError):
            return _Read(ops.Drop(flow_id=flow_id, reason=item.code), item)
        return _Read(
            ops.Apply.of(
                item,
                flow_id=flow_id,
                message_id=published.message_id,
                published_at=published.published_at if item.observed_at is None else None,
            )
        )


def _outcome(read: _Read, answer: object) -> Outcome:
    if read.error is not None and not (isinstance(answer, PenstockError) and answer.retryable):
        answer = read.error
    # The flow has already ended. An audit event records the dropped observation, so the message is done.
    if isinstance(answer, PenstockError) and answer.code == "already_terminal":
        return ACK
    return outcome(answer)
