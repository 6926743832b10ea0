"""The roles of every Python program here, Penstock's included. Standard library only, for the peers' environments.

    python -m benchmarks.peers.<name> create|work|latency URL '{"count": …}'

`create` creates no-ops in batches and prints how long that took. `work` runs a worker that prints when its first
and its last (`count`th) no-op ran, and runs until killed. `latency` submits one no-op after the other, waits for
each result and prints the times. Output is JSON lines. BullMQ's program (bullmq.mjs) has the same interface.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

TEXT: Final = "x" * 98
"""The argument of every no-op: 100 bytes as JSON."""


class Peer(Protocol):
    """One system, used through its own client library in the way that its documentation shows."""

    async def open(self, url: str, producers: int) -> None:
        """Connect a client."""
        ...

    async def create(self, producer: int, count: int) -> None:
        """Create `count` no-ops, in one call if the library has a batch call."""
        ...

    async def round_trip(self) -> None:
        """Create one no-op and wait for its result."""
        ...

    def work(self, url: str, concurrency: int, ran: Callable[[], None]) -> Coroutine[Any, Any, None] | None:
        """Run a worker until the process is killed, or return the coroutine that does. Call `ran` for every no-op."""
        ...


def main(peer: Peer) -> None:
    role, url, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    roles = {"create": _create, "work": _work, "latency": _latency}
    running = roles[role](peer, url, **options)
    if running is not None:
        _run(running)


async def _create(peer: Peer, url: str, count: int, batch: int, producers: int) -> None:
    await peer.open(url, producers)
    batches = [batch] * (count // batch)

    async def produce(producer: int) -> None:
        while batches:
            await peer.create(producer, batches.pop())

    started = time.monotonic()
    await asyncio.gather(*(produce(producer) for producer in range(producers)))
    _say(seconds=time.monotonic() - started)


def _work(peer: Peer, url: str, concurrency: int, count: int) -> Coroutine[Any, Any, None] | None:
    ran = 0

    def on_run() -> None:
        nonlocal ran
        ran += 1
        if ran == 1:
            _say(first=time.monotonic())
        if ran == count:
            _say(last=time.monotonic())

    return peer.work(url, concurrency, on_run)


async def _latency(peer: Peer, url: str, count: int, seconds: float, warm_up: int) -> None:
    await peer.open(url, 1)
    for _ in range(warm_up):
        with contextlib.suppress(Exception):  # a worker that has just started may drop a job (SAQ's does)
            await peer.round_trip()
    samples: list[float] = []
    end = time.monotonic() + seconds
    while len(samples) < count and time.monotonic() < end:
        started = time.perf_counter()
        await peer.round_trip()
        samples.append(time.perf_counter() - started)
    _say(samples=samples)


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def _run(main: Coroutine[Any, Any, None]) -> None:
    """Run the coroutine, with uvloop if installed, so that all systems have the same event loop."""
    try:
        from uvloop import run
    except ImportError:
        asyncio.run(main)
    else:
        run(main)
