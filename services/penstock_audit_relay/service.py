"""The wiring of the audit relay: one loop, woken by hints, and its metrics."""

from penstock.bus import streams
from penstock.runtime.service import Context, Service
from penstock_audit_relay.outbox import Outbox
from penstock_audit_relay.relay import Relay
from penstock_audit_relay.rewound import Rewinds


def build(context: Context) -> Service:
    settings, metrics = context.settings, context.metrics
    outbox = Outbox(context.machine, context.log)
    # Leave room for the headers of a batch's last message, whose cursor names every partition.
    outbox.limit = context.nats.max_payload - 2048 - 40 * settings.partitions
    stream = streams.stream_name(settings.root, streams.AUDIT)
    rewinds = Rewinds(context.nats, stream, outbox, context.machine, context.log)
    relay = Relay(
        context.nats,
        context.js,
        outbox,
        rewinds,
        root=settings.root,
        stream=stream,
        leads=context.membership.is_leader,
        ensure=lambda: streams.ensure(context.js, settings.root, settings.stream_replicas, timeout=5.0),
        sweep=settings.sweep_ms / 1000,
        log=context.log,
    )
    context.listen("audit", lambda partition, _: outbox.wake(partition))
    metrics.counter("penstock_audit_events", "Events that entered the audit stream", lambda: relay.events)
    metrics.counter("penstock_audit_batches", "Atomic batches that they came in", lambda: relay.batches)
    metrics.counter("penstock_audit_failures", "Rounds that failed", lambda: relay.failures)
    metrics.counter("penstock_audit_dead_letters", "What cannot be an event", lambda: relay.dead_letters)
    metrics.counter(
        "penstock_state_rewound", "Times that a partition's Valkey had lost changes", lambda: rewinds.count
    )
    metrics.gauge("penstock_audit_active", "1: publishes, 0: stands by", lambda: relay.active)
    metrics.gauge("penstock_outbox_entries", "Outbox entries that wait, as last seen", outbox.waiting_entries)
    metrics.gauge("penstock_outbox_age_seconds", "Age of the oldest of them, as last seen", outbox.age)
    return Service("audit-relay", background=[relay.run], due=False)
