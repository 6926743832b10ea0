"""`client.triggers`: what other systems publish starts executions and flows."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._options import request_of
from penstock.client._pages import each
from penstock.messages.triggers import Trigger, TriggerGet, TriggerList, TriggerTested


class Triggers:
    """Keeps triggers and tries them. Each call raises the typed error that the service answers."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def put(self, trigger: Mapping[str, Any]) -> Trigger:
        """Keep a trigger (the fields of `trigger.put`); it replaces the one with its name."""
        return await self._requester.call(verbs.TRIGGER_PUT, request_of(verbs.TRIGGER_PUT, trigger))

    async def get(self, name: str) -> Trigger:
        """A trigger, and what it has done."""
        return await self._requester.call(verbs.TRIGGER_GET, TriggerGet(name=name))

    def list(self, *, page: int = 100) -> AsyncIterator[Trigger]:
        """Every trigger, in the order of their names."""
        return each(
            self._requester,
            verbs.TRIGGER_LIST,
            lambda cursor: TriggerList(cursor=cursor, limit=page),
        )

    async def delete(self, name: str) -> Trigger:
        """Follow a trigger no more; what it made stays."""
        return await self._requester.call(verbs.TRIGGER_DELETE, TriggerGet(name=name))

    async def test(self, trigger: Mapping[str, Any], sample: Mapping[str, Any]) -> TriggerTested:
        """The request that a trigger would make for a message {subject, headers, data}, or why none."""
        fields = {"trigger": trigger, "sample": sample}
        return await self._requester.call(verbs.TRIGGER_TEST, request_of(verbs.TRIGGER_TEST, fields))
