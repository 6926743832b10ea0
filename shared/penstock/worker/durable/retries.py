"""How often a step is tried, and how long it waits in between."""

import random
from datetime import timedelta
from typing import Any, Final

import msgspec

from penstock.messages.executions import Backoff
from penstock.worker._errors import Duration, milliseconds


class Retries:
    """How a step is retried: at most `max` tries in all, with `backoff` in between.

    `backoff` is a fixed time (seconds or a timedelta), or the contract's `Backoff` or dict, such as
    `{"kind": "exponential", "delay_ms": 1000, "factor": 2.0, "max_ms": 300_000, "jitter": 0.1}`; that is also the
    default, without jitter. Tries of steps are counted in the journal and never in the execution's `max_attempts`.
    """

    __slots__ = ("backoff", "max")

    def __init__(self, max: int = 5, backoff: Backoff | dict[str, Any] | Duration | None = None) -> None:
        if max < 1:
            raise ValueError("Retries: max counts the first try too, so it is at least 1")
        self.max = max
        if isinstance(backoff, int | float | timedelta):
            backoff = Backoff(kind="fixed", delay_ms=milliseconds(backoff))
        self.backoff = msgspec.convert(msgspec.to_builtins(backoff or {}), Backoff)

    def delay_ms(self, tries: int) -> int:
        """Return how long to wait after so many tries, in milliseconds."""
        backoff = self.backoff
        delay: float = backoff.delay_ms
        if backoff.kind == "exponential":
            # The exponent is bounded, because a float overflows at about factor 100 ** 154.
            delay = min(delay * backoff.factor ** min(tries - 1, 100), backoff.max_ms)
        return round(delay * (1 - backoff.jitter * random.random()))


FIVE_TRIES: Final = Retries()
ONE_TRY: Final = Retries(1)
