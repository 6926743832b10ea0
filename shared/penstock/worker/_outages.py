"""Logs failing requests for work: at once, then less and less often, and once when they succeed again."""

import logging
import time
from typing import Final

log: Final = logging.getLogger("penstock.worker")

FIRST_S: Final = 5.0
LONGEST_S: Final = 300.0


class OutageLog:
    """The log of one worker's outages."""

    def __init__(self) -> None:
        self._gap = 0.0
        self._say_at = 0.0

    def failed(self, error: Exception) -> None:
        """Record a failed request for work."""
        now = time.monotonic()
        if not self._gap or now >= self._say_at:
            log.warning("no work, trying on: %s", error)
            self._gap = min(self._gap * 2, LONGEST_S) or FIRST_S
            self._say_at = now + self._gap

    def recovered(self) -> None:
        """Record an answered request for work."""
        if self._gap:
            log.info("work is answered again")
            self._gap = 0.0
