"""A Valkey that lies behind the audit stream: what is lost is found out and told in the trail, and relaying goes on.

That happens when a replica that lagged is promoted, or an old copy of the data is restored: changes that were
acknowledged, and whose events are in the stream, never happened for this Valkey. Its outbox does not know the entry
that the stream's cursor names (`Taken.behind`). Entry ids alone would not tell: new entries have higher ids than lost
ones.

The event `state_rewound` moves the cursor back, in the same atomic batch, to the last entry that both have. All that
Valkey has after it is new, and is relayed; what the stream has after it is lost.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct
from nats.aio.client import Client

from penstock import audit
from penstock.ids import in_partition
from penstock.machine import Machine
from penstock_audit_relay.entries import Entry, formed
from penstock_audit_relay.outbox import Outbox, key
from penstock_audit_relay.position import cursor_of

LOOK_BACK: Final = 200_000
"""How many of the stream's newest messages are looked through to count what is lost. More only if events that Valkey
still has must be told from new ones."""


class Lost(Struct):
    """What the stream has and Valkey has not. `common`: the last entry that both have."""

    common: str
    events: int = 0
    from_seq: int | None = None
    """The stream sequence of the first lost event; None if nothing was found."""
    ids: set[tuple[str, str]] = msgspec.field(default_factory=set[tuple[str, str]])
    whole: bool = True
    """False if more may be lost than was looked through."""


class _Event(Struct):
    entity: str
    id: str


_event: Final = msgspec.json.Decoder(_Event).decode


class Rewinds:
    """Tells of partitions whose Valkey lies behind the stream."""

    def __init__(self, nats: Client, stream: str, outbox: Outbox, machine: Machine, log: Any) -> None:
        self.count = 0
        self._nats = nats
        self._stream = stream
        self._outbox = outbox
        self._machine = machine
        self._log = log

    async def tell(self, partition: int) -> Entry:
        """Return the event `state_rewound` of a partition that the outbox found `behind`, as an entry for the chain.

        The entry's id is the position from which the outbox goes on once the event is in the stream. All that was taken
        from the partition must be in the stream. Raise NATS' errors, or PenstockError("valkey_unavailable").
        """
        told = self._outbox.position(partition)
        behind = self._outbox.behind[partition]
        known = behind.behind or "0-0"
        waiting = await self._outbox.waiting(partition, known, told)
        info = await self._nats.jetstream().stream_info(self._stream)  # pyright: ignore[reportUnknownMemberType]
        lost = await self._lost(partition, known, waiting, info.state.first_seq, info.state.last_seq)
        facts = {
            "partition": partition,
            "events": lost.events,
            "executions": sum(entity == "execution" for entity, _ in lost.ids),
            "from_seq": lost.from_seq,
            "to_seq": info.state.last_seq,
            "whole": lost.whole,
        }
        self._log.error(
            "Valkey lies behind the audit trail: acknowledged changes are lost, as after the promotion of a replica"
            " that lagged or the restore of an old copy; `penstock audit rewound` lists them",
            from_=told, to=lost.common, **facts,
        )  # fmt: skip
        self.count += 1
        id = self._machine.new_id(partition)
        event = audit.Facts(
            f"{id}:1", audit.SCHEMA_VERSION, 1, "default", audit.PARTITION, id, audit.REWOUND, behind.now,
            "audit-relay", told, lost.common, "valkey_behind", facts,
        )  # fmt: skip
        return Entry(partition, lost.common, [formed(event)], [])

    async def _lost(
        self, partition: int, known: str, waiting: list[Entry], first_seq: int, last_seq: int
    ) -> Lost:
        """Walk back through the stream, to the newest event that Valkey has too."""
        common = {form: entry.id for entry in waiting for _, _, form in entry.events}
        lost = Lost(known)
        async for page in audit.backwards(self._nats, self._stream, max(first_seq, 1), last_seq):
            for message in reversed(page):
                cursor = cursor_of(message.headers)
                if cursor is not None and key(cursor.get(partition, known)) <= key(known):
                    return lost
                parts = audit.unseal(message.body)
                if parts is None:
                    continue
                if (entry := common.get(parts[0])) is not None:
                    lost.common = entry
                    return lost
                event = _event(message.body)
                if event.entity != audit.PARTITION and in_partition(event.id, partition):
                    lost.events += 1
                    lost.from_seq = message.seq
                    lost.ids.add((event.entity, event.id))
            if not common and page and last_seq - page[0].seq >= LOOK_BACK:
                lost.whole = False
                return lost
        return lost
