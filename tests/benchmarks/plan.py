"""The size of a benchmark run, and the floor and goal of each figure."""

from dataclasses import dataclass
from typing import Final, Literal

BATCH: Final = 100
PRODUCERS: Final = 4
CONCURRENCY: Final = 64


@dataclass(frozen=True)
class Plan:
    """The counts of a run, bounded so that a run ends in minutes."""

    rounds: int
    divide: int
    """A round has `System.executions` divided by this number."""
    round_trips: int
    round_trip_s: float
    """Most seconds for the round trips: a slower system is measured by the round trips done by then."""
    deep: int
    """Executions in the deep queue of the figure `depth`."""
    claims: int
    floor_calls: int
    growth_sample: int
    """Executions that are created and drained at each point of the figure `growth`, and how often."""
    growth_rounds: int
    durability: Literal["disk", "process"] = "disk"
    """The durability setting of NATS and Valkey, the same for all systems."""


FULL: Final = Plan(
    rounds=3,
    divide=1,
    round_trips=2000,
    round_trip_s=5,
    deep=1_000_000,
    claims=400,
    floor_calls=400,
    growth_sample=4000,
    growth_rounds=3,
)
QUICK: Final = Plan(
    rounds=1,
    divide=4,
    round_trips=500,
    round_trip_s=1.5,
    deep=100_000,
    claims=200,
    floor_calls=100,
    growth_sample=2000,
    growth_rounds=2,
)
TINY: Final = Plan(
    rounds=1,
    divide=200,
    round_trips=10,
    round_trip_s=0.5,
    deep=2000,
    claims=10,
    floor_calls=10,
    growth_sample=200,
    growth_rounds=1,
)


@dataclass(frozen=True)
class Target:
    """A figure with a floor and a goal. goal None: the best peer's figure of the same run. higher: more is better."""

    title: str
    metric: str
    unit: str
    floor: float
    goal: float | None
    higher: bool = False


TARGETS: Final = (
    Target("no-op executions, created → completed, one worker process", "drain", "/s", 5000, None, True),
    Target("create in batches of 100", "create", "/s", 15_000, 25_000, True),
    Target("submit → result, idle: p50", "latency_p50", "ms", 3, 1.5),
    Target("submit → result, idle: p99", "latency_p99", "ms", 10, 4),
    Target("10 capability sets, 100 workers, 1,000 executions: p99 of claim", "routing_p99", "ms", 50, 10),
    Target("published signal → running again, parked worker: p50", "signal_p50", "ms", 4, 2.5),
    Target("published signal → running again, parked worker: p99", "signal_p99", "ms", 12, 6),
    Target("signals over 2,000 waiting executions", "signals", "/s", 2000, 6000, True),
    Target(
        "signal p50 beside 10,000 to 100 other waitpoints, against alone",
        "signal_beside_spread",
        "times",
        4,
        2,
    ),
    Target(
        "signal p50 beside 10,000 to one other waitpoint, against 10,000 to 100",
        "signal_beside_one_spread",
        "times",
        1.5,
        1,
    ),
    Target("100 linear flows of 10 members at once", "flows", "flows/s", 200, 400, True),
    Target("one such flow alone, start → finished", "flow_alone", "ms", 35, 20),
    Target("1 → 1,000 → 1 fan", "flow_fan", "ms", 1000, 400),
    Target("cancel_all of 1,000 members: flipped, the slowest of five", "cancel_flip", "ms", 50, 20),
    Target("cancel_all of 1,000 members: all stopped", "cancel_stop", "ms", 1000, 400),
    Target("observations applied, published", "observations", "/s", 5000, 15_000, True),
    Target("no-op step of a durable function: p50", "step_p50", "ms", 2, 1.2),
    Target("durable functions of 10 steps, one worker process", "step_functions", "/s", 300, 800, True),
    Target("replay of 1,000 journal entries", "replay", "ms", 50, 20),
    Target("claim with very many queued, against 1,000", "depth_ratio", "times", 1.3, 1.1),
    Target("Valkey CPU of one execution: its calls", "valkey_calls", "µs", 130, 70),
    Target("append-only file, a no-op in calls of 64", "aof_64", "bytes", 1905, 1360),
    Target("append-only file, a no-op alone", "aof_1", "bytes", 2727, 1948),
    Target("Valkey memory of one queued execution, 100-byte input", "memory", "KiB", 1.5, 0.8),
)
