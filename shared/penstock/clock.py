"""An estimate of Valkey's clock for other processes: all instants of the contract are Valkey's time."""

import math
import time


class ValkeyClock:
    """Estimates Valkey's clock from the `now` of its replies, as an offset to this process's monotonic clock.

    Valkey reads `now` between sending and receiving, so every reply proves that the offset lies in an interval.
    The estimate moves only as far as that interval demands; a slow reply (a wide interval) does no harm.
    """

    def __init__(self) -> None:
        self._offset = time.time() * 1000 - time.monotonic() * 1000  # assume equal clocks until a reply comes
        self._bound = math.inf  # upper bound of the offset, by the replies so far

    def now(self) -> float:
        """Return Valkey's estimated time, in milliseconds since the Unix epoch."""
        return time.monotonic() * 1000 + self._offset

    def local(self, at: float) -> float:
        """Convert an instant of Valkey's clock to `time.monotonic()` seconds, which is also the event loop's clock."""
        return (at - self._offset) / 1000

    def earliest(self, at: float) -> float:
        """Return the earliest `time.monotonic()` at which Valkey's clock may show `at`: never later than the true one.

        Before the first reply the result is minus infinity.
        """
        return (at - self._bound) / 1000

    def learn(self, now: float, sent: float, received: float) -> None:
        """Correct the estimate by the `now` of a reply; `sent` and `received` are `time.monotonic()`."""
        lowest, highest = now - received * 1000, now + 1 - sent * 1000
        # A sample whose whole interval lies above the bound shows that Valkey's clock has stepped forward.
        self._bound = highest if lowest > self._bound else min(self._bound, highest)
        self._offset = min(max(self._offset, lowest), highest)
