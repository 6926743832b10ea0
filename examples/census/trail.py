"""Reads the audit trail: a JetStream stream like any other."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Self

import msgspec

from census.flow import NAMESPACE
from penstock import AuditEvent, Client
from penstock.messages.common import Record


class AuditTrail:
    """The events of the census, by the execution or the flow that they tell of."""

    def __init__(self) -> None:
        self.events: dict[str, list[AuditEvent]] = defaultdict(list)
        self.length = 0

    @classmethod
    async def read(cls, client: Client, records: dict[str, Record], timeout: float) -> Self:
        """The stream from its start, until it tells as much of these executions as their records do.

        Events are published after the fact, so the last ones may still be on their way. What is missing
        when the time is up is for the checks to find.
        """
        trail = cls()
        subscription = await client.nats.jetstream().subscribe(
            f"penstock.audit.{NAMESPACE}.>", stream="PENSTOCK_AUDIT", ordered_consumer=True
        )
        behind = {id for id, record in records.items() if record.seq > 0}
        pending = 1
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while behind or pending:
                    message = await subscription.next_msg(timeout)
                    pending = message.metadata.num_pending
                    event = msgspec.json.decode(message.data, type=AuditEvent)
                    trail.events[event.id].append(event)
                    trail.length += 1
                    if event.id in behind and event.seq >= records[event.id].seq:
                        behind.remove(event.id)
        await subscription.unsubscribe()
        return trail

    def gaps(self, records: dict[str, Record]) -> set[str]:
        """Executions whose events are not 1, 2, 3 … up to the record's last one."""
        return {
            id
            for id, record in records.items()
            if [event.seq for event in self.events[id]] != list(range(1, record.seq + 1))
        }

    def wrong_endings(self, records: dict[str, Record]) -> set[str]:
        """Completed executions without exactly one `completed` event, and others that have one."""
        return {
            id
            for id, record in records.items()
            if len(self._times(id, "completed")) != (1 if record.state == "completed" else 0)
        }

    def begun_late(self, flow_id: str, records: dict[str, Record]) -> set[str]:
        """Members that a worker was given when their flow was cancelled already."""
        [cancelled_at, *_] = self._times(flow_id, "cancelled") or [0]
        return {id for id in records if any(at > cancelled_at for at in self._times(id, "leased"))}

    def completed(self, records: dict[str, Record]) -> int:
        """How many of these have been completed."""
        return sum(len(self._times(id, "completed")) for id in records)

    def _times(self, id: str, event: str) -> list[int]:
        return [each.at for each in self.events[id] if each.event == event]
