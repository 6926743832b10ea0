"""What grew in a run: samples of the processes' memory and of Valkey, and what they prove.

A run is made of rounds that send the same number of requests. A sample follows each, when all that the round made has
ended and left. What is kept by mistake grows from round to round, so the *slope* tells, and not the level: caches and
allocators fill up in the first rounds, which do not count. The slope is the median of the slopes between all pairs of
rounds (Theil 1950, Sen 1968), which one odd sample does not move.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

WARM_UP: Final = 0.4
"""The part of the rounds that does not count."""
MOST_RSS_BYTES: Final = 100.0
MOST_VALKEY_BYTES: Final = 2.0
MOST_KEYS: Final = 0.001
"""Growth for each request that still counts as none. A request that leaves a record takes hundreds of bytes."""


@dataclass
class Sample:
    """After a round. requests: sent so far. rss: bytes of each service's process; used_memory, keys: Valkey's."""

    requests: int
    rss: dict[str, int]
    used_memory: int
    keys: int


def slope(points: list[tuple[int, int]]) -> float:
    """Return the Theil-Sen slope of (x, y)."""
    return median(
        (other[1] - one[1]) / (other[0] - one[0]) for one, other in itertools.combinations(points, 2)
    )


def slopes(samples: list[Sample]) -> dict[str, float]:
    """Return the growth for each request: bytes of each service, bytes and keys of Valkey. Needs four samples."""
    counted = samples[int(len(samples) * WARM_UP) :]
    found = {
        name: slope([(each.requests, each.rss[name]) for each in counted]) for name in sorted(counted[0].rss)
    }
    found["valkey bytes"] = slope([(each.requests, each.used_memory) for each in counted])
    found["valkey keys"] = slope([(each.requests, each.keys) for each in counted])
    return found


def growing(samples: list[Sample]) -> list[str]:
    """Return what grows, in words."""
    most = {"valkey bytes": MOST_VALKEY_BYTES, "valkey keys": MOST_KEYS}
    return [
        f"{name} grows by {growth:g} with each request"
        for name, growth in slopes(samples).items()
        if growth > most.get(name, MOST_RSS_BYTES)
    ]


def rss(pid: int) -> int:
    """Return the bytes of memory that a process has now (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")
