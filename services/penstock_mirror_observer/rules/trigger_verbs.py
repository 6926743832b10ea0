"""The verbs trigger.put, .get, .list, .delete and .test."""

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.bus.endpoints import Call
from penstock.machine import Machine
from penstock.machine.ops import mirror_observer as ops
from penstock.messages import triggers as messages
from penstock.messages.triggers import TriggerGet, TriggerList, TriggerPut, TriggerTest, TriggerTested
from penstock_mirror_observer.rules.sources import Message
from penstock_mirror_observer.rules.trigger import Trigger
from penstock_mirror_observer.rules.verbs import RULES_AT, Subjects


class Triggers:
    """Handlers of the verbs about triggers. These verbs take no batches."""

    def __init__(self, machine: Machine, subjects: Subjects) -> None:
        self._machine = machine
        self._subjects = subjects

    async def put(self, call: Call[TriggerPut]) -> Sequence[Any]:
        item = call.items[0]
        self._checked(item)
        await self._subjects.check_stream(item.stream)
        put = ops.RulePut(kind="trigger", name=item.name, body=msgspec.json.encode(item).decode())
        return [_shown(await self._machine.run(put, at=RULES_AT))]

    def _checked(self, item: TriggerPut) -> Trigger:
        self._subjects.check(item.subject)
        return Trigger(item)

    async def get(self, call: Call[TriggerGet]) -> Sequence[Any]:
        return [_shown(await self._machine.run(ops.RuleGet.of(call.items[0], kind="trigger"), at=RULES_AT))]

    async def list(self, call: Call[TriggerList]) -> Sequence[Any]:
        page = await self._machine.run(ops.RuleList.of(call.items[0], kind="trigger"), at=RULES_AT)
        return [{"items": [_shown(each) for each in page.items], "cursor": page.cursor}]

    async def delete(self, call: Call[TriggerGet]) -> Sequence[Any]:
        return [
            _shown(await self._machine.run(ops.RuleDelete.of(call.items[0], kind="trigger"), at=RULES_AT))
        ]

    async def test(self, call: Call[TriggerTest]) -> Sequence[Any]:
        item = call.items[0]
        trigger, sample = self._checked(item.trigger), item.sample
        message = Message(sample.subject, sample.headers, msgspec.json.encode(sample.data))
        fields = trigger.read(message, message.headers.get("nats-msg-id", "sample"))
        if isinstance(fields, str):
            return [TriggerTested(dropped=fields)]
        return [TriggerTested(verb=trigger.verb.name, request=fields)]


def _shown(kept: ops.RuleKept) -> messages.Trigger:
    fields: dict[str, Any] = msgspec.json.decode(kept.body)
    return messages.Trigger(
        **fields,
        revision=kept.revision,
        seen=kept.seen,
        applied=kept.applied,
        dropped=kept.dropped,
        last_error=kept.last_error,
        last_at=kept.last_at,
    )
