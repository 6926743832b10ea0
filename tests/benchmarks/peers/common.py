"""What every Python program here does, ours included. Standard library only: peers have their own environment.

    python -m benchmarks.peers.<name> create|work|latency URL '{"count": …}'

`create` makes executions in batches and says how long it took; `work` is a worker that says when its first and
its last (`count`th) no-op ran, and goes on until killed; `latency` submits one after the other and waits for
each result. Answers are JSON lines. BullMQ's program (bullmq.mjs) speaks the same.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

TEXT: Final = "x" * 98
"""Every no-op's argument: 100 bytes of JSON."""


class Peer(Protocol):
    """One system, seen through its own client library, used as its documentation does."""

    async def open(self, url: str, producers: int) -> None:
        """Connects a client."""
        ...

    async def create(self, producer: int, count: int) -> None:
        """Creates so many no-ops, in one call if there is one for that."""
        ...

    async def round_trip(self) -> None:
        """Creates one no-op and waits for its result."""
        ...

    async def work(self, url: str, concurrency: int, ran: Callable[[], None]) -> None:
        """Runs a worker until cancelled; `ran` hears of every no-op."""
        ...


def main(peer: Peer) -> None:
    role, url, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    roles = {"create": _create, "work": _work, "latency": _latency}
    _run(roles[role](peer, url, **options))


async def _create(peer: Peer, url: str, count: int, batch: int, producers: int) -> None:
    await peer.open(url, producers)
    batches = [batch] * (count // batch)

    async def produce(producer: int) -> None:
        while batches:
            await peer.create(producer, batches.pop())

    started = time.monotonic()
    await asyncio.gather(*(produce(producer) for producer in range(producers)))
    _say(seconds=time.monotonic() - started)


async def _work(peer: Peer, url: str, concurrency: int, count: int) -> None:
    ran = 0

    def on_run() -> None:
        nonlocal ran
        ran += 1
        if ran == 1:
            _say(first=time.monotonic())
        if ran == count:
            _say(last=time.monotonic())

    await peer.work(url, concurrency, on_run)


async def _latency(peer: Peer, url: str, count: int, seconds: float, warm_up: int) -> None:
    await peer.open(url, 1)
    for _ in range(warm_up):
        with contextlib.suppress(Exception):  # a worker that has only just come up may drop one (SAQ's does)
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
    """With uvloop for all, where it is installed."""
    try:
        from uvloop import run
    except ImportError:
        asyncio.run(main)
    else:
        run(main)
