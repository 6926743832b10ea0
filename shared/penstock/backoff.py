"""Pauses between attempts: exponential backoff, doubling up to a maximum, with jitter."""

import random
from typing import Final

JITTER: Final = 0.25


class Backoff:
    """The pauses of one retry loop, in seconds.

    Jitter shortens each pause by up to a quarter at random, so that clients that lost the same server do not all
    reconnect at once ("equal jitter", Brooker, AWS Architecture Blog, 2015).
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._pause_s = first_s

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Return the next pause, in seconds, before jitter at least `at_least_s`."""
        pause_s = max(self._pause_s, at_least_s)
        self._pause_s = min(pause_s * 2, self._longest_s)
        return pause_s * random.uniform(1 - JITTER, 1.0)

    def reset(self) -> None:
        """Start again with the first pause, after an attempt that succeeded."""
        self._pause_s = self._first_s
