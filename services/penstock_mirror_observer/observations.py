"""Published observations: kept by JetStream until they are applied, a batch of messages as one store call."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from penstock.bus.codec import decode
from penstock.bus.consumer import ACK, Dead, Outcome, Retry
from penstock.errors import PenstockError, make
from penstock.ids import partition_of
from penstock.messages.common import Id
from penstock.messages.flows import PublishedObservation, Step
from penstock.store import Store
from penstock.verbs import MIRROR_OBSERVER, Verb

# Not a verb that anyone can request: what is published is read as one, with the same typed errors.
_PUBLISHED: Final[Verb[PublishedObservation, Step]] = Verb(
    "observation", MIRROR_OBSERVER, PublishedObservation, Step
)


class Observations:
    """Applies what is published on `<root>.observation.<flow_id>`."""

    def __init__(self, store: Store, *, root: str, max_payload_bytes: int) -> None:
        self._store = store
        self._prefix = f"{root}.observation."
        self._max_payload_bytes = max_payload_bytes

    async def apply(self, messages: list[Msg]) -> Sequence[Outcome]:
        """An outcome for each message; the consumer's handler."""
        read = [self._read(message) for message in messages]
        answers = iter(
            await self._store.call_many([call for call in read if not isinstance(call, PenstockError)])
        )
        return [_outcome(call if isinstance(call, PenstockError) else next(answers)) for call in read]

    def _read(self, message: Msg) -> tuple[int, str, dict[str, Any]] | PenstockError:
        """The store call that this message asks for, or why it asks for none."""
        flow_id = message.subject.removeprefix(self._prefix)
        try:
            msgspec.convert(flow_id, Id)
        except msgspec.ValidationError:
            return make("invalid_request", "the subject must end in a flow id", detail={"field": "flow_id"})
        (item,), _ = decode(_PUBLISHED, message.data, self._max_payload_bytes)
        if isinstance(item, PenstockError):
            return item
        if item.flow_id not in (None, flow_id):
            return make(
                "invalid_request", "flow_id: the subject names another flow", detail={"field": "flow_id"}
            )
        args = {
            **msgspec.structs.asdict(item),
            "flow_id": flow_id,
            "message_id": (message.headers or {}).get("Nats-Msg-Id"),
            "quiet": True,
        }
        return partition_of(flow_id), "observe", args


def _outcome(answer: dict[str, Any] | PenstockError) -> Outcome:
    if not isinstance(answer, PenstockError):
        return ACK
    if answer.retryable:
        return Retry()
    # Too late, and its audit event says so.
    if answer.code == "already_terminal":
        return ACK
    return Dead(f"{answer.code}: {answer.message}")
