"""Rate limit for log lines: a failure that repeats a thousand times a second is logged once in a while."""

import math
import time
from typing import Final

EVERY_S: Final = 10.0


class Throttle:
    """Lets one line through, then none for `every_s` seconds; `held` counts the lines held back since then."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self.held = 0
        self._every_s = every_s
        self._last = -math.inf

    def passes(self) -> bool:
        """Return whether to log now. True starts the next pause, so the caller must log; False adds to `held`."""
        now = time.monotonic()
        if now - self._last < self._every_s:
            self.held += 1
            return False
        self._last = now
        return True
