"""The verbs mirror_rule.put, .get, .list, .delete and .test."""

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.bus.calls import Call
from penstock.messages.mirror_rules import MirrorRule, MirrorRulePut, MirrorRuleTest, MirrorRuleTested
from penstock_mirror_observer.rules.rule import Rule
from penstock_mirror_observer.rules.stored import Stored, message_of


class Rules(Stored[MirrorRulePut, Rule]):
    """Handlers of the verbs about mirror rules. These verbs take no batches."""

    kind = "rule"
    shown = MirrorRule

    def _compiled(self, item: MirrorRulePut) -> Rule:
        return Rule(item)

    async def test(self, call: Call[MirrorRuleTest]) -> Sequence[Any]:
        item = call.items[0]
        found = self._checked(item.rule).read(message_of(item.sample))
        if isinstance(found, str):
            return [MirrorRuleTested(dropped=found)]
        observation = {
            "run_id": found.run_id,
            "task": found.task,
            "status": found.status,
            "result": None if found.result is None else msgspec.json.decode(found.result),
            "observed_at": found.observed_at,
            "child_session_key": found.child_session_key,
        }
        return [MirrorRuleTested(observation=observation, flow_id=found.flow_id, key=found.key)]
