"""The verbs trigger.put, .get, .list, .delete and .test."""

from collections.abc import Sequence
from typing import Any

from penstock.bus.calls import Call
from penstock.messages import triggers as messages
from penstock.messages.triggers import TriggerPut, TriggerTest, TriggerTested
from penstock_mirror_observer.rules.stored import Stored, message_of
from penstock_mirror_observer.rules.trigger import Trigger


class Triggers(Stored[TriggerPut, Trigger]):
    """Handlers of the verbs about triggers. These verbs take no batches."""

    kind = "trigger"
    shown = messages.Trigger

    def _compiled(self, item: TriggerPut) -> Trigger:
        return Trigger(item)

    async def test(self, call: Call[TriggerTest]) -> Sequence[Any]:
        item = call.items[0]
        trigger, message = self._checked(item.trigger), message_of(item.sample)
        fields = trigger.read(message, message.headers.get("nats-msg-id", "sample"))
        if isinstance(fields, str):
            return [TriggerTested(dropped=fields)]
        return [TriggerTested(verb=trigger.verb.name, request=fields)]
