"""The metrics of what a service's parts know: its due work, connections, hints, membership and streams."""

from penstock.bus.endpoints import Endpoints
from penstock.runtime.service import Context, Service


def watch(context: Context, service: Service, endpoints: Endpoints) -> None:
    """Add them to the service's metrics."""
    metrics, health, due, nats = context.metrics, context.health, context.due, context.nats
    if service.due:
        metrics.counter("penstock_due_items", "Due items handled", lambda: due.handled)
        metrics.counter("penstock_due_slices", "Calls of the due command", lambda: due.slices)
        metrics.counter("penstock_due_errors", "Due items or calls that failed", lambda: due.errors)
        metrics.gauge("penstock_due_lag_seconds", "How late the earliest due work is now", due.lag_s)
        metrics.histogram("penstock_due_delay_seconds", "How late due work was handled", due.delays)
    metrics.gauge("penstock_nats_connected", "1 when connected", lambda: nats.is_connected)
    metrics.gauge("penstock_valkey_connected", "1 when it answers", lambda: health.holds("valkey"))
    metrics.gauge("penstock_ready", "1 when ready", lambda: health.ready)
    metrics.counter("penstock_nats_reconnects", "Reconnects to NATS", lambda: nats.stats["reconnects"])
    metrics.gauge("penstock_calls_in_flight", "Handler calls that run now", lambda: endpoints.in_flight)
    metrics.counter(
        "penstock_refused_replies",
        "Requests dropped because their reply would go to Penstock's own subjects",
        lambda: endpoints.replies.refused,
    )
    refused = context.hints.refused
    metrics.watch(
        "penstock_refused_hints",
        "counter",
        "Hints dropped because no service of this deployment has just signed them, by reason",
        lambda: [((why,), refused[why]) for why in ("unsigned", "forged", "stale")],
        "reason",
    )
    membership = context.membership
    metrics.gauge("penstock_members", "Live instances of the service", lambda: len(membership.members))
    metrics.gauge("penstock_owned_partitions", "Partitions looked after", lambda: len(membership.owned()))
    metrics.watch(
        "penstock_stream_messages",
        "counter",
        "Messages taken from streams, by what became of them: ack, retry or dead",
        lambda: [
            ((each.stream, outcome), count)
            for each in service.consumers
            for outcome, count in (("ack", each.acked), ("retry", each.retried), ("dead", each.dead))
        ],
        "stream",
        "outcome",
    )
