"""A trigger at work: each message creates an execution, or creates and starts a flow."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.errors import PenstockError
from penstock.messages.flows import FlowStart
from penstock_mirror_observer.rules.follower import Follower, Incoming
from penstock_mirror_observer.rules.trigger import Trigger

_PAYLOADS: Final = ("input", "state")
TIMEOUT_S: Final = 10.0
_STARTED_BEFORE: Final = frozenset({"illegal_transition", "already_terminal", "cancel_pending"})
"""How flow.start refuses a flow that an earlier delivery of the message has started."""


class Triggering(Follower):
    """A trigger at work. It sends ordinary requests to the scheduler; an idempotency key makes repeating harmless."""

    kind = "trigger"

    def __init__(self, requester: Requester, trigger: Trigger) -> None:
        super().__init__(trigger.name, trigger.subject, trigger.stream, trigger.revision)
        self.trigger = trigger
        self._requester = requester

    async def apply(self, batch: Sequence[Incoming]) -> list[bool]:
        """Apply messages. Return for each whether it is done; False (a retryable error) asks for a redelivery."""
        # The requester sends the requests of one event-loop tick as one message.
        done = await asyncio.gather(*(self._create(each) for each in batch))
        self.seen += sum(done)
        return done

    async def _create(self, incoming: Incoming) -> bool:
        fields = self.trigger.read(incoming.message, incoming.message_id)
        if isinstance(fields, str):
            self.drop(fields)
            return True
        for name in _PAYLOADS:
            if name in fields:
                fields[name] = raw_of(fields[name])
        try:
            request = msgspec.convert(fields, self.trigger.verb.request)
            made: Any = await self._requester.call(self.trigger.verb, request, timeout=TIMEOUT_S)
            if self.trigger.verb is verbs.FLOW_CREATE and made.status == "created":
                await self._start_flow(made.flow_id)
        except (PenstockError, msgspec.ValidationError) as error:
            if isinstance(error, PenstockError) and error.retryable:
                return False
            self.drop(str(error))
            return True
        self.applied += 1
        return True

    async def _start_flow(self, flow_id: str) -> None:
        try:
            await self._requester.call(verbs.FLOW_START, FlowStart(flow_id=flow_id))
        except PenstockError as error:
            if error.code not in _STARTED_BEFORE:
                raise
