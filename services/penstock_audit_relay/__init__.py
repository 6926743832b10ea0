"""The audit relay: carries every event from Valkey's outboxes into the audit stream, exactly once.

Valkey keeps an event until the stream has it; the stream keeps, beside the events, how far the relay has
come (`Penstock-Cursor`, on the last event of each atomic batch). Both facts change in one step, so a relay
that starts, or that is in doubt, just reads the stream's end and goes on from there: nothing else is
remembered anywhere, and no crash at any point loses, doubles or reorders an event.

`service` is the table of contents; `relay` the loop; `outbox` Valkey's side; `entries` what an outbox entry
holds; `batch` the chain and the bytes; `publisher` NATS' side; `position` where to go on.
"""
