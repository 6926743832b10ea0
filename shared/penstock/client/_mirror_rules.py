"""`client.mirror_rules`: rules that turn other systems' messages into observations of mirrored flows."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._options import request_of
from penstock.client._pages import each
from penstock.messages.mirror_rules import MirrorRule, MirrorRuleGet, MirrorRuleList, MirrorRuleTested


class MirrorRules:
    """Methods to store, list, test and delete rules. Each raises the typed error that the service replies with."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def put(self, rule: Mapping[str, Any]) -> MirrorRule:
        """Store a rule (the fields of `mirror_rule.put`). An existing rule with the same name is replaced."""
        return await self._requester.call(verbs.MIRROR_RULE_PUT, request_of(verbs.MIRROR_RULE_PUT, rule))

    async def get(self, name: str) -> MirrorRule:
        """Return a rule, with counts of the messages it has seen, applied and dropped."""
        return await self._requester.call(verbs.MIRROR_RULE_GET, MirrorRuleGet(name=name))

    def list(self, *, page: int = 100) -> AsyncIterator[MirrorRule]:
        """Iterate over all rules in the order of their names, fetching `page` at a time."""
        return each(
            self._requester,
            verbs.MIRROR_RULE_LIST,
            lambda cursor: MirrorRuleList(cursor=cursor, limit=page),
        )

    async def delete(self, name: str) -> MirrorRule:
        """Delete a rule. The flows that the rule created stay."""
        return await self._requester.call(verbs.MIRROR_RULE_DELETE, MirrorRuleGet(name=name))

    async def test(self, rule: Mapping[str, Any], sample: Mapping[str, Any]) -> MirrorRuleTested:
        """Return the observation a rule would make of a message {subject, headers, data}, or why it makes none."""
        fields = {"rule": rule, "sample": sample}
        return await self._requester.call(verbs.MIRROR_RULE_TEST, request_of(verbs.MIRROR_RULE_TEST, fields))
