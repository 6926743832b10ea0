"""Limits on the rate of requests: a token bucket for each bearer or address.

A bucket fills at `rate` per second, up to `2 * rate` (but one at least), and each request takes one.
Source: https://en.wikipedia.org/wiki/Token_bucket
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from penstock import errors

MOST: Final = 10_000
"""Buckets that are kept. The one that was used longest ago goes first, which at worst forgives its owner."""


class Rates:
    """The buckets of one kind of key."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = max(2 * rate, 1.0)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.refused = 0
        """Requests that were refused since the start."""

    def take(self, key: str) -> None:
        """Count one request. Raise `rate_limit_exceeded`, with the time after which to come again."""
        now = self._clock()
        level, at = self._buckets.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        enough = level >= 1.0
        self._buckets[key] = (level - 1.0 if enough else level, now)
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        if not enough:
            self.refused += 1
            raise errors.make(
                "rate_limit_exceeded",
                f"the gateway takes {self._rate:g} requests per second",
                retry_after_ms=int((1.0 - level) / self._rate * 1000) + 1,
            )
