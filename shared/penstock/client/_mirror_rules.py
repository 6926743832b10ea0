"""`client.mirror_rules`: what other systems publish becomes observations of mirrored flows."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._options import request_of
from penstock.client._pages import each
from penstock.messages.mirror_rules import MirrorRule, MirrorRuleGet, MirrorRuleList, MirrorRuleTested


class MirrorRules:
    """Keeps rules and tries them. Each call raises the typed error that the service answers."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def put(self, rule: Mapping[str, Any]) -> MirrorRule:
        """Keep a rule (the fields of `mirror_rule.put`); it replaces the one with its name."""
        return await self._requester.call(verbs.MIRROR_RULE_PUT, request_of(verbs.MIRROR_RULE_PUT, rule))

    async def get(self, name: str) -> MirrorRule:
        """A rule, and what it has done."""
        return await self._requester.call(verbs.MIRROR_RULE_GET, MirrorRuleGet(name=name))

    def list(self, *, page: int = 100) -> AsyncIterator[MirrorRule]:
        """Every rule, in the order of their names."""
        return each(
            self._requester,
            verbs.MIRROR_RULE_LIST,
            lambda cursor: MirrorRuleList(cursor=cursor, limit=page),
        )

    async def delete(self, name: str) -> MirrorRule:
        """Follow a rule no more; the flows that it made stay."""
        return await self._requester.call(verbs.MIRROR_RULE_DELETE, MirrorRuleGet(name=name))

    async def test(self, rule: Mapping[str, Any], sample: Mapping[str, Any]) -> MirrorRuleTested:
        """The observation that a rule would make of a message {subject, headers, data}, or why none."""
        fields = {"rule": rule, "sample": sample}
        return await self._requester.call(verbs.MIRROR_RULE_TEST, request_of(verbs.MIRROR_RULE_TEST, fields))
