"""The wiring of the audit relay: one loop, woken by hints, and its metrics."""

from penstock.bus import streams
from penstock.runtime.service import Context, Service
from penstock_audit_relay.counting import Counts
from penstock_audit_relay.outbox import Outbox
from penstock_audit_relay.relay import Relay
from penstock_audit_relay.rewound import Rewinds
from penstock_audit_relay.room import RoomWatch
from penstock_audit_relay.writing import Writing


def build(context: Context) -> Service:
    settings, metrics = context.settings, context.metrics
    stream = streams.stream_name(settings.root, streams.AUDIT)
    outbox = Outbox(context.machine, context.log)
    # Leave room for the headers of a batch's last message, whose cursor names every partition.
    outbox.limit = context.nats.max_payload - 2048 - 40 * settings.partitions
    stream = streams.stream_name(settings.root, streams.AUDIT)
    rewinds = Rewinds(context.nats, stream, outbox, context.machine, context.log)
    counts = Counts()
    writing = Writing(context.machine, counts, context.log)
    relay = Relay(
        context.nats,
        context.js,
        outbox,
        rewinds,
        counts,
        root=settings.root,
        stream=stream,
        leads=context.membership.is_leader,
        ensure=lambda: streams.ensure(
            context.js, settings.root, settings.stream_replicas, settings.stream_bounds(), timeout=5.0
        ),
        sweep=settings.sweep_ms / 1000,
        log=context.log,
        stores=lambda holds: context.health.set(
            stream, holds, "it stores nothing: make room on nats-server's disk, then restart nats-server"
        ),
    )
    watch = RoomWatch(context.nats, stream, context.membership.is_leader, context.log)
    context.listen("audit", lambda partition, _: outbox.wake(partition))
    metrics.watch(
        "penstock_audit_events",
        "counter",
        "Events that entered the audit stream, by what they tell",
        relay.events.items,
        "entity",
        "event",
    )
    metrics.counter("penstock_audit_batches", "Atomic batches that they came in", lambda: relay.batches)
    metrics.counter("penstock_audit_failures", "Rounds of the relay that failed", lambda: relay.failures)
    metrics.counter("penstock_audit_dead_letters", "What cannot be an event", lambda: relay.dead_letters)
    metrics.counter(
        "penstock_state_rewound", "Times that a partition's Valkey had lost changes", lambda: rewinds.count
    )
    metrics.gauge("penstock_audit_active", "1: publishes, 0: stands by", lambda: relay.active)
    metrics.gauge(
        "penstock_audit_outbox_entries",
        "Writes to Valkey whose events wait for the audit stream, as last seen",
        outbox.waiting_entries,
    )
    metrics.gauge("penstock_audit_outbox_age_seconds", "Age of the oldest of them", outbox.age)
    metrics.gauge("penstock_audit_stream_bytes", "Bytes of the audit stream, as last seen", watch.bytes)
    metrics.gauge("penstock_audit_stream_full_ratio", "1: the oldest audit events go", watch.full)
    return Service("audit-relay", background=[relay.run, watch.run, writing.run], due=False)
