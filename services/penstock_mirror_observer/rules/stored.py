"""How rules and triggers are stored: the verbs that both kinds have alike, and the subjects that both may follow."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from penstock.bus.calls import Call
from penstock.errors import invalid, make
from penstock.machine import Machine
from penstock.machine.ops import mirror_observer as ops
from penstock.messages import triggers
from penstock.messages.mirror_rules import MirrorRule, MirrorRuleGet, MirrorRuleList, MirrorRulePut, Sample
from penstock.messages.triggers import TriggerGet, TriggerList, TriggerPut
from penstock_mirror_observer.rules.rule import Rule
from penstock_mirror_observer.rules.sources import Message
from penstock_mirror_observer.rules.trigger import Trigger

RULES_AT: Final = 0
"""The partition that stores the rules and triggers."""
MAX_BYTES: Final = 64 * 1024
"""The most bytes of a rule or trigger: every mirror-observer keeps all of them in memory."""

Put = TypeVar("Put", MirrorRulePut, TriggerPut)
Compiled = TypeVar("Compiled", Rule, Trigger)


class Subjects:
    """Checks which subjects and streams a rule or trigger may follow."""

    def __init__(self, js: JetStreamContext, root: str) -> None:
        self._js = js
        self._root = root

    def check(self, subject: str) -> None:
        """Raise PenstockError("invalid_request") if a subject is malformed or overlaps Penstock's own subjects."""
        if subject.split(".")[0] in (self._root, "*", ">"):
            raise invalid(
                "subject", f"meets Penstock's own subjects ({self._root}.>): begin with another token"
            )
        if ">" in subject.removesuffix(".>"):
            raise invalid("subject", "`>` may only be its last token")

    async def check_stream(self, stream: str | None) -> None:
        """Raise PenstockError: `invalid_request` if the stream is missing or Penstock's own, `timeout`."""
        if stream is None:
            return
        if stream.startswith(f"{self._root.upper()}_"):
            raise invalid("stream", "is one of Penstock's own")
        try:
            await self._js.stream_info(stream)  # pyright: ignore[reportUnknownMemberType]
        except NotFoundError:
            raise invalid("stream", f"there is no JetStream stream {stream!r}: make it first") from None
        except (NatsError, TimeoutError) as error:
            raise make("timeout", f"JetStream does not answer ({type(error).__name__}); try again") from None


class Stored(ABC, Generic[Put, Compiled]):
    """Handlers of the verbs put, get, list and delete of one kind. These verbs take no batches."""

    kind: ClassVar[str]
    """rule or trigger."""
    shown: ClassVar[type[MirrorRule] | type[triggers.Trigger]]
    """The reply: the fields of the request to put, and the counters."""

    def __init__(self, machine: Machine, subjects: Subjects) -> None:
        self._machine = machine
        self._subjects = subjects

    @abstractmethod
    def _compiled(self, item: Put) -> Compiled:
        """Compile a rule. Raise PenstockError("invalid_request"), naming the field."""

    def _checked(self, item: Put) -> Compiled:
        self._subjects.check(item.subject)
        return self._compiled(item)

    async def put(self, call: Call[Put]) -> Sequence[Any]:
        item = call.items[0]
        self._checked(item)
        await self._subjects.check_stream(item.stream)
        body = msgspec.json.encode(item)
        if len(body) > MAX_BYTES:
            raise invalid(
                "name", f"a rule or trigger has at most {MAX_BYTES} bytes, as JSON; this one has {len(body)}"
            )
        put = ops.RulePut(kind=self.kind, name=item.name, body=body.decode())
        return [self._show(await self._machine.run(put, at=RULES_AT))]

    async def get(self, call: Call[MirrorRuleGet] | Call[TriggerGet]) -> Sequence[Any]:
        get = ops.RuleGet.of(call.items[0], kind=self.kind)
        return [self._show(await self._machine.run(get, at=RULES_AT))]

    async def list(self, call: Call[MirrorRuleList] | Call[TriggerList]) -> Sequence[Any]:
        page = await self._machine.run(ops.RuleList.of(call.items[0], kind=self.kind), at=RULES_AT)
        return [{"items": [self._show(each) for each in page.items], "cursor": page.cursor}]

    async def delete(self, call: Call[MirrorRuleGet] | Call[TriggerGet]) -> Sequence[Any]:
        delete = ops.RuleDelete.of(call.items[0], kind=self.kind)
        return [self._show(await self._machine.run(delete, at=RULES_AT))]

    def _show(self, kept: ops.RuleKept) -> MirrorRule | triggers.Trigger:
        fields: dict[str, Any] = msgspec.json.decode(kept.body)
        return self.shown(
            **fields,
            revision=kept.revision,
            seen=kept.seen,
            applied=kept.applied,
            dropped=kept.dropped,
            last_error=kept.last_error,
            last_at=kept.last_at,
        )


def message_of(sample: Sample) -> Message:
    """Return a request's sample in the form of a message that was received."""
    return Message(sample.subject, sample.headers, msgspec.json.encode(sample.data))
