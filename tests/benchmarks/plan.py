"""How much is measured, and what for: counts, floors and goals."""

from dataclasses import dataclass
from typing import Final, Literal

BATCH: Final = 100
PRODUCERS: Final = 4
CONCURRENCY: Final = 64


@dataclass(frozen=True)
class Plan:
    """The bounds of a run, so that it ends in minutes."""

    rounds: int
    divide: int
    """Executions of a round: `System.executions` divided by this."""
    round_trips: int
    round_trip_s: float
    """A system that takes this long for its round trips is measured with those that it has done."""
    deep: int
    """Executions that are queued for the figure `depth`."""
    claims: int
    floor_calls: int
    durability: Literal["disk", "process"] = "disk"
    """What both servers are asked for, of all systems alike."""


FULL: Final = Plan(
    rounds=3, divide=1, round_trips=2000, round_trip_s=5, deep=1_000_000, claims=400, floor_calls=400
)
QUICK: Final = Plan(
    rounds=1, divide=4, round_trips=500, round_trip_s=1.5, deep=100_000, claims=200, floor_calls=100
)
TINY: Final = Plan(
    rounds=1, divide=200, round_trips=10, round_trip_s=0.5, deep=2000, claims=10, floor_calls=10
)


@dataclass(frozen=True)
class Target:
    """A figure that has a floor. `goal` None: the best peer's, measured in the same run."""

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
    Target("claim with very many queued, against 1,000", "depth_ratio", "times", 1.3, 1.1),
    Target("Valkey CPU of one execution: its calls", "valkey_calls", "µs", 130, 70),
    Target("Valkey memory of one queued execution, 100-byte input", "memory", "KiB", 1.5, 0.8),
)
