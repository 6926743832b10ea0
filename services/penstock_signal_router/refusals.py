"""What refused tokens may cost: whoever sends thousands of them must not keep Valkey busy.

A refusal is remembered here, so that the same one costs Valkey nothing, and is recorded in the audit trail a few
times only. The sender's name would not help: NATS shows none, and a forger would change it.
"""

import time
from typing import Final

RECORDED: Final = 10
WINDOW_S: Final = 10.0
"""At most RECORDED refusals per waitpoint go to Valkey in so many seconds, as lua/waitpoint/waitpoints.lua records no
more (over all routers) anyway."""
MISSING_S: Final = 10.0
"""How long a waitpoint that was not found counts as missing. An id is made with its waitpoint, so none comes later."""
REMEMBERED: Final = 50_000
"""Most entries of each kind in memory; the oldest goes first."""


class Refusals:
    """Counts of refused signals by waitpoint, and ids that no waitpoint has."""

    def __init__(self) -> None:
        self.seen = 0
        """Number of refused signals, for the metrics."""
        self._counts: dict[str, tuple[float, int]] = {}
        self._missing: dict[str, float] = {}

    def is_recorded(self, target: str) -> bool:
        """Count a refusal for this target, and return whether it goes to the audit trail."""
        self.seen += 1
        now = time.monotonic()
        since, count = self._counts.pop(target, (now, 0))
        if now - since >= WINDOW_S:
            since, count = now, 0
        self._counts[target] = since, count + 1
        _trim(self._counts)
        return count < RECORDED

    def missed(self, waitpoint_id: str) -> None:
        """Remember that there is no such waitpoint."""
        self._missing[waitpoint_id] = time.monotonic() + MISSING_S
        _trim(self._missing)

    def is_missing(self, waitpoint_id: str) -> bool:
        """Return whether there was no such waitpoint a moment ago."""
        until = self._missing.get(waitpoint_id)
        if until is None:
            return False
        if until > time.monotonic():
            return True
        del self._missing[waitpoint_id]
        return False


def _trim(kept: "dict[str, float] | dict[str, tuple[float, int]]") -> None:
    while len(kept) > REMEMBERED:
        del kept[next(iter(kept))]
