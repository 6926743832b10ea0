"""Metrics of the backlog: what still has to be stopped, and since when."""

from penstock.metrics import Samples
from penstock.runtime import Context
from penstock.runtime.look import Look
from penstock_cancel_reconciler.backlog import Backlog, Size


def add_gauges(context: Context, backlog: Backlog) -> Look[Size | None]:
    """Add the gauges, and return the look that fills them."""
    look: Look[Size | None] = Look(context, backlog.size, None)

    def items() -> Samples:
        size = look.seen
        return [] if size is None else [(("execution",), size.executions), (("flow",), size.flows)]

    watch = context.metrics.watch
    watch(
        "penstock_cancel_backlog_items",
        "gauge",
        "Executions and flows that still have to be stopped",
        items,
        "entity",
    )
    watch(
        "penstock_cancel_backlog_age_seconds",
        "gauge",
        "How long ago the oldest of those that are looked at next was asked to stop",
        lambda: [] if look.seen is None else [((), look.seen.age_ms / 1000)],
    )
    return look
