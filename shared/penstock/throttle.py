"""Saying a thing once in a while: what fails a thousand times a second is one line of a log."""

import math
import time
from typing import Final

EVERY_S: Final = 10.0


class Throttle:
    """Lets one through, then none for `every_s` seconds; `held` counts those that were held back meanwhile."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self.held = 0
        self._every_s = every_s
        self._last = -math.inf

    def passes(self) -> bool:
        """Whether it may be said now. Who asks and may must say it."""
        now = time.monotonic()
        if now - self._last < self._every_s:
            self.held += 1
            return False
        self._last = now
        return True
