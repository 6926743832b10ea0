"""The audit relay: carries every event from Valkey's outboxes into the audit stream, exactly once.

Valkey keeps an event until the stream has it. The stream keeps the relay's cursor beside the events (header
`Penstock-Cursor`, on the last event of each atomic batch). Events and cursor are stored in one step, so a relay
that starts, or that is in doubt, reads the end of the stream and continues from there. No other state exists,
and no crash at any point loses, doubles or reorders an event.

`service` is the wiring; `relay` the loop; `outbox` the Valkey side; `entries` the format of an outbox entry;
`batch` the hash chain and the wire bytes; `publisher` the NATS side; `position` the recovery; `rewound` what is done
when Valkey has lost changes whose events the stream has.
"""
