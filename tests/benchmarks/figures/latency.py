"""Latency from submit to result, of one execution at a time on an idle system."""

from benchmarks.plan import CONCURRENCY, Plan
from benchmarks.systems import System, running

WARM_UP = 50


def measure(system: System, plan: Plan) -> dict[str, float]:
    with running(system, plan.durability) as house, house.program("work", concurrency=CONCURRENCY, count=0):
        answer = house.ask(
            "latency",
            count=plan.round_trips,
            seconds=plan.round_trip_s,
            warm_up=min(WARM_UP, plan.round_trips),
        )
    samples = sorted(answer["samples"])
    figures = {
        f"latency_p{name}": percentile(samples, part) for name, part in _PARTS if enough(samples, part)
    }
    return figures | {"latency_samples": len(samples)}


_PARTS = (("50", 0.5), ("99", 0.99), ("999", 0.999))


def percentile(samples: list[float], part: float) -> float:
    """Return a percentile in milliseconds. samples: seconds, sorted."""
    return samples[min(len(samples) - 1, int(len(samples) * part))] * 1000


def enough(samples: list[float], part: float) -> bool:
    """Whether at least one sample lies beyond the percentile; with none, the percentile means nothing."""
    return len(samples) * (1 - part) >= 0.99
