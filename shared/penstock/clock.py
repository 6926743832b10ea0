"""Valkey's clock, as a process elsewhere sees it: all instants of the contract are read from that one."""

import math
import time


class ValkeyClock:
    """An estimate of Valkey's clock from the `now` of replies, on top of this process's monotonic one.

    Every reply proves that the offset lies in an interval (the clock was read between sending and
    receiving); the estimate moves only as far as that demands. Slow replies therefore do no harm.
    """

    def __init__(self) -> None:
        self._offset = time.time() * 1000 - time.monotonic() * 1000  # same clock, until we know better
        self._bound = math.inf  # no offset that has been seen to be possible is higher

    def now(self) -> float:
        """Milliseconds since the Unix epoch, there."""
        return time.monotonic() * 1000 + self._offset

    def local(self, at: float) -> float:
        """That instant of Valkey's on `time.monotonic()`, which is also the event loop's clock."""
        return (at - self._offset) / 1000

    def earliest(self, at: float) -> float:
        """The first moment on `time.monotonic()` at which Valkey's clock may show `at`: never later than it truly does.

        Before anything is known, every moment may be that one: minus infinity.
        """
        return (at - self._bound) / 1000

    def learn(self, now: float, sent: float, received: float) -> None:
        """`now` came in a reply; `sent` and `received` are `time.monotonic()`."""
        lowest, highest = now - received * 1000, now + 1 - sent * 1000
        # A sample that lies above the bound as a whole shows that Valkey's clock has stepped forward.
        self._bound = highest if lowest > self._bound else min(self._bound, highest)
        self._offset = min(max(self._offset, lowest), highest)
