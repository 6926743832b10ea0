"""Pauses between attempts: each twice as long as the one before, up to a longest."""

import random
from typing import Final

JITTER: Final = 0.25


class Backoff:
    """The pauses of one retry loop, in seconds.

    Jitter takes off up to a quarter at random, so that many who lost the same server do not come back at once
    ("equal jitter", Brooker, AWS Architecture Blog, 2015).
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._pause_s = first_s

    def next_s(self, at_least_s: float = 0.0) -> float:
        """How long to wait now."""
        pause_s = max(self._pause_s, at_least_s)
        self._pause_s = min(pause_s * 2, self._longest_s)
        return pause_s * random.uniform(1 - JITTER, 1.0)

    def reset(self) -> None:
        """An attempt succeeded: the next pause is the first again."""
        self._pause_s = self._first_s
