"""The faults: SIGKILL, SIGTERM and SIGSTOP of services, workers and both servers, drawn from a seed."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

LONGEST_S: Final = 20.0
SERVERS: Final = ("nats-", "valkey-")
"""What the names of servers begin with. Each is hit more often than one service or worker of many."""


class Fault(NamedTuple):
    """One fault: after `pause_s`, do `what` to `victim` (the name of a process); stop it for `stop_s` seconds."""

    pause_s: float
    victim: str
    what: str
    stop_s: float


class Faults:
    """Random faults, one after the other, until cancelled. `log`: (seconds since the start, what was done)."""

    def __init__(
        self, seed: int, pids: Callable[[], dict[str, int | None]], longest_s: float = LONGEST_S
    ) -> None:
        """pids: the processes that may be hit, by name; longest_s: the longest SIGSTOP."""
        self.log: list[tuple[float, str]] = []
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._pids = pids
        self._longest_s = longest_s
        self._began = time.monotonic()

    def plan(self, victims: list[str]) -> Fault:
        """Draw the next fault. Its length is mostly a few seconds, and now and then the longest."""
        rng = self._random
        what = rng.choices(["SIGKILL", "SIGTERM", "SIGSTOP"], [5, 2, 3])[0]
        stop_s = self._longest_s * (1 if rng.random() < 0.1 else rng.uniform(0.03, 0.3))
        [victim] = rng.choices(victims, [3 if name.startswith(SERVERS) else 1 for name in victims])
        return Fault(rng.uniform(0.2, 3), victim, what, stop_s)

    async def run(self, say: Callable[[str], None]) -> None:
        while True:
            fault = self.plan(sorted(self._pids()))
            await asyncio.sleep(fault.pause_s)
            await self.inflict(fault, say)

    async def inflict(self, fault: Fault, say: Callable[[str], None]) -> None:
        pid = self._pids().get(fault.victim)
        if pid is None:  # it is being started again
            return
        stops = fault.what == "SIGSTOP"
        text = f"{fault.what} {fault.victim}" + (f" for {fault.stop_s:.1f} s" if stops else "")
        say(text)
        self.log.append((round(time.monotonic() - self._began, 1), text))
        self.counts[f"{fault.what} {fault.victim.rstrip('-0123456789')}"] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, fault.what))
            if stops:
                try:
                    await asyncio.sleep(fault.stop_s)
                finally:
                    os.kill(pid, signal.SIGCONT)
