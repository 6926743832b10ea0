"""`client.triggers`: rules by which other systems' messages start executions and flows."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.client._options import request_of
from penstock.client._pages import each
from penstock.messages.triggers import Trigger, TriggerGet, TriggerList, TriggerTested


class Triggers:
    """Methods to store, list, test and delete triggers. Each raises the typed error that the service replies with."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def put(self, trigger: Mapping[str, Any]) -> Trigger:
        """Store a trigger (the fields of `trigger.put`). An existing trigger with the same name is replaced."""
        return await self._requester.call(verbs.TRIGGER_PUT, request_of(verbs.TRIGGER_PUT, trigger))

    async def get(self, name: str) -> Trigger:
        """Return a trigger, with counts of the messages it has seen, applied and dropped."""
        return await self._requester.call(verbs.TRIGGER_GET, TriggerGet(name=name))

    def list(self, *, page: int = 100) -> AsyncIterator[Trigger]:
        """Iterate over all triggers in the order of their names, fetching `page` at a time."""
        return each(
            self._requester,
            verbs.TRIGGER_LIST,
            lambda cursor: TriggerList(cursor=cursor, limit=page),
        )

    async def delete(self, name: str) -> Trigger:
        """Delete a trigger. The executions and flows that it created stay."""
        return await self._requester.call(verbs.TRIGGER_DELETE, TriggerGet(name=name))

    async def test(self, trigger: Mapping[str, Any], sample: Mapping[str, Any]) -> TriggerTested:
        """Return the request a trigger would make for a message {subject, headers, data}, or why it makes none."""
        fields = {"trigger": trigger, "sample": sample}
        return await self._requester.call(verbs.TRIGGER_TEST, request_of(verbs.TRIGGER_TEST, fields))
