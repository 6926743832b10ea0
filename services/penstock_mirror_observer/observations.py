"""Published observations: kept by JetStream until they are applied, a batch of messages as one store call."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.msg import Msg

from penstock.bus.codec import decode
from penstock.bus.consumer import ACK, Dead, Outcome, Retry
from penstock.errors import PenstockError, make
from penstock.machine import Machine, Op
from penstock.machine.ops import mirror_observer as ops
from penstock.messages.common import Id
from penstock.messages.flows import PublishedObservation, Step
from penstock.verbs import MIRROR_OBSERVER, Verb

# Not a verb that anyone can request: what is published is read as one, with the same typed errors.
_PUBLISHED: Final[Verb[PublishedObservation, Step]] = Verb(
    "observation", MIRROR_OBSERVER, PublishedObservation, Step
)


class _Read(NamedTuple):
    """What a message asks for, if anything, and why it is no observation: then the operation tells of it."""

    op: Op[Any] | None
    error: PenstockError | None = None


class Observations:
    """Applies what is published on `<root>.observation.<flow_id>`."""

    def __init__(self, machine: Machine, *, root: str, max_payload_bytes: int) -> None:
        self._machine = machine
        self._prefix = f"{root}.observation."
        self._max_payload_bytes = max_payload_bytes

    async def apply(self, messages: list[Msg]) -> Sequence[Outcome]:
        """An outcome for each message; the consumer's handler."""
        read = [self._read(message) for message in messages]
        answers = iter(await self._machine.run_many([each.op for each in read if each.op is not None]))
        return [_outcome(each, None if each.op is None else next(answers)) for each in read]

    def _read(self, message: Msg) -> _Read:
        flow_id = message.subject.removeprefix(self._prefix)
        try:
            msgspec.convert(flow_id, Id)
        except msgspec.ValidationError:
            return _Read(None, _refusal("the subject must end in a flow id"))
        (item,), _ = decode(_PUBLISHED, message.data, self._max_payload_bytes)
        if not isinstance(item, PenstockError) and item.flow_id not in (None, flow_id):
            item = _refusal("flow_id: the subject names another flow")
        if isinstance(item, PenstockError):
            return _Read(ops.Drop(flow_id=flow_id, reason=item.code), item)
        published_at = int(message.metadata.timestamp.timestamp() * 1e6)
        # One that came without an id: its place in the stream, the same at every delivery.
        place = f"{message.metadata.sequence.stream}@{published_at}"
        return _Read(
            ops.Apply.of(
                item,
                flow_id=flow_id,
                message_id=(message.headers or {}).get("Nats-Msg-Id") or place,
                published_at=published_at if item.observed_at is None else None,
            )
        )


def _refusal(message: str) -> PenstockError:
    return make("invalid_request", message, detail={"field": "flow_id"})


def _outcome(read: _Read, answer: object) -> Outcome:
    if isinstance(answer, PenstockError) and answer.retryable:
        return Retry()
    if read.error is not None:
        answer = read.error
    if not isinstance(answer, PenstockError):
        return ACK
    # Too late, and its audit event says so.
    if answer.code == "already_terminal":
        return ACK
    return Dead(f"{answer.code}: {answer.message}")
