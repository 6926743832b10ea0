"""Reads the audit trail, which is an ordinary JetStream stream."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Self

import msgspec

from census.flow import NAMESPACE
from penstock import AuditEvent, Client
from penstock.messages.common import Record

HELD = ("leased", "running")
"""The states in which a worker holds an execution; it comes to either from `ready`."""


class AuditTrail:
    """The audit events of the census, by the id of their execution or flow."""

    def __init__(self) -> None:
        self.events: dict[str, list[AuditEvent]] = defaultdict(list)
        self.length = 0

    @classmethod
    async def read(cls, client: Client, records: dict[str, Record], timeout: float) -> Self:
        """Read the stream from its start, until it has each execution's events up to the record's `seq`.

        Events are published after the change itself, so the last ones may come late. If events are still
        missing after `timeout` seconds, the checks find the gaps.
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
        """Return the executions whose events are not numbered 1, 2, 3 … up to the record's `seq`."""
        return {
            id
            for id, record in records.items()
            if [event.seq for event in self.events[id]] != list(range(1, record.seq + 1))
        }

    def wrong_endings(self, records: dict[str, Record]) -> set[str]:
        """Return completed executions without exactly one `completed` event, and other executions with any."""
        return {
            id
            for id, record in records.items()
            if len(self._times(id, "completed")) != (1 if record.state == "completed" else 0)
        }

    def begun_late(self, flow_id: str, records: dict[str, Record]) -> set[str]:
        """Return the members that a worker leased after their flow was cancelled."""
        [cancelled_at, *_] = self._times(flow_id, "cancelled") or [0]
        return {
            id
            for id in records
            if any(
                each.from_ == "ready" and each.to in HELD and each.at > cancelled_at
                for each in self.events[id]
            )
        }

    def completed(self, records: dict[str, Record]) -> int:
        """Count the `completed` events of these executions."""
        return sum(len(self._times(id, "completed")) for id in records)

    def _times(self, id: str, event: str) -> list[int]:
        return [each.at for each in self.events[id] if each.event == event]
