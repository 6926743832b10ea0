"""Metrics of lanes: how much is in each, how long its oldest ready execution has waited, whether it is paused."""

from collections.abc import Iterator, Sequence
from typing import Final

from penstock.messages.executions import Lane
from penstock.metrics import Samples
from penstock.runtime import Context
from penstock.runtime.look import Look
from penstock_scheduler.lanes.verbs import Lanes

MOST: Final = 100
"""The most lanes that are shown, the first by name: clients name lanes, and each makes eight series."""
STATES: Final = ("scheduled", "ready", "leased", "running", "retry_wait", "suspended")
"""The states of work. Executions that have ended are left out: retention decides how many of them there are."""


def add_gauges(context: Context, lanes: Lanes) -> Look[Sequence[Lane]]:
    """Add the gauges, and return the look that fills them."""
    look: Look[Sequence[Lane]] = Look(context, lambda: lanes.first(MOST + 1), [])

    def shown() -> Sequence[Lane]:
        return look.seen[:MOST]

    def depths() -> Iterator[tuple[tuple[str, str], float]]:
        for lane in shown():
            for state in STATES:
                yield (lane.lane, state), lane.depth[state]

    def ages() -> Samples:
        return [((lane.lane,), (lane.oldest_ready_age_ms or 0) / 1000) for lane in shown()]

    def paused() -> Samples:
        return [((lane.lane,), lane.status == "paused") for lane in shown()]

    watch = context.metrics.watch
    watch("penstock_lane_executions", "gauge", "Executions that have not ended", depths, "lane", "state")
    watch(
        "penstock_lane_oldest_ready_age_seconds",
        "gauge",
        "How long the oldest ready execution has been ready; 0 where none is",
        ages,
        "lane",
    )
    watch("penstock_lane_paused", "gauge", "1: the lane hands nothing out", paused, "lane")
    context.metrics.gauge(
        "penstock_lanes_hidden",
        f"1: there are more than {MOST} lanes, and only the first by name have metrics",
        lambda: len(look.seen) > MOST,
    )
    return look
