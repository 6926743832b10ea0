"""Percentiles of durations in little room: a histogram whose buckets grow by a constant factor.

It is DDSketch (Masson, Rim, Lee: "DDSketch: A Fast and Fully-Mergeable Quantile Sketch", VLDB 2019): a quantile is
within (GAMMA - 1) / (GAMMA + 1) = 9.1 % of the true value, and two sketches add up to the sketch of both.
"""

import math
from typing import Final

from msgspec import Struct

GAMMA: Final = 1.2
_LOG: Final = math.log(GAMMA)


def _bucket(ms: int) -> int:
    return -1 if ms < 1 else math.ceil(math.log(ms) / _LOG)


_SHORT: Final = [_bucket(ms) for ms in range(1000)]
"""The buckets of short durations, which are most of them: looked up in a third of the time."""


class Sketch(Struct, array_like=True):
    """counts: how many durations are in each bucket. Bucket -1 is for 0 ms, bucket i for (GAMMA^(i-1), GAMMA^i] ms."""

    counts: dict[int, int] = {}

    def add(self, ms: int) -> None:
        bucket = _SHORT[ms] if 0 <= ms < len(_SHORT) else _bucket(ms)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, other: "Sketch") -> None:
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def quantile(self, q: float) -> int | None:
        """Return the duration (ms) that the share `q` of all durations does not exceed; None if there are none."""
        rank = q * (self.count - 1)
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen > rank:
                return 0 if bucket < 0 else round(2 * GAMMA**bucket / (GAMMA + 1))
        return None
