"""Valkey's clock, as a process elsewhere sees it: all instants of the contract are read from that one."""

import time


class ValkeyClock:
    """An estimate of Valkey's clock from the `now` of replies, on top of this process's monotonic one.

    Every reply proves that the offset lies in an interval (the clock was read between sending and
    receiving); the estimate moves only as far as that demands. Slow replies therefore do no harm.
    """

    def __init__(self) -> None:
        self._offset = time.time() * 1000 - time.monotonic() * 1000  # same clock, until we know better
        self.known = False
        """Whether a reply has told what Valkey's clock shows."""

    def now(self) -> float:
        """Milliseconds since the Unix epoch, there."""
        return time.monotonic() * 1000 + self._offset

    def local(self, at: float) -> float:
        """That instant of Valkey's on `time.monotonic()`, which is also the event loop's clock."""
        return (at - self._offset) / 1000

    def learn(self, now: float, sent: float, received: float) -> None:
        """`now` came in a reply; `sent` and `received` are `time.monotonic()`."""
        self.known = True
        lowest, highest = now - received * 1000, now + 1 - sent * 1000
        self._offset = min(max(self._offset, lowest), highest)
