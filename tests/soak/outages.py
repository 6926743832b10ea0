"""How long each fault shows: `python -m soak.outages` prints the table's figures in docs/reliability.md.

Each fault hits a `penstock up` with one process of each service. A client sends a request every 0.1 s, each with its
usual time limit of 10 s. The outage lasts from the fault until the last request is sent that fails or is answered late.
"""

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from commands import BARE, Up
from penstock import Client, PenstockError
from soak.deployment import Workers
from soak.load import LANES

QUIET_S = 3.0
"""An outage is over when a request is answered at once that was sent so long after the last bad one."""
LATE_S = 0.5
EVERY_S = 0.1
ROUNDS = 3
ASKED = {
    "scheduler": ("lane.list", {}),
    "lease-keeper": ("worker.list", {}),
    "signal-router": ("waitpoint.list", {}),
    "mirror-observer": ("mirror_rule.list", {}),
    "cancel-reconciler": ("cancel.backlog", {}),
}
FROZEN_S = 8.0
STEADY_S = 12.0
"""Between two faults: a process that ends more often than that is started again more and more slowly."""


async def outage(ask: Callable[[], Awaitable[Any]], fault: Callable[[], None]) -> tuple[float, Counter[str]]:
    """Return how long requests failed or were answered late, by the time at which they were sent; and their errors."""
    errors: Counter[str] = Counter()
    bad_at = [0.0]  # seconds after the fault
    good_at = 0.0

    async def one(sent: float) -> None:
        nonlocal good_at
        try:
            await ask()
            late = time.monotonic() - began - sent > LATE_S
        except PenstockError as error:
            errors[error.code] += 1
            late = True
        if late:
            bad_at.append(sent)
        else:
            good_at = max(good_at, sent)

    fault()
    began = time.monotonic()
    asked: set[asyncio.Task[None]] = set()
    while good_at < max(bad_at) + QUIET_S:
        asked.add(asyncio.create_task(one(time.monotonic() - began)))
        await asyncio.sleep(EVERY_S)
    await asyncio.wait(asked)
    return max(bad_at), errors


async def measure(
    client: Client, up: Up, name: str, verb: str, body: dict[str, Any], what: signal.Signals
) -> str:
    spans, errors = [], Counter[str]()
    for _ in range(ROUNDS):
        facts = up.facts
        pid = (facts["pids"] | facts["server_pids"])[name]

        def fault(pid: int = pid) -> None:
            os.kill(pid, what)
            if what == signal.SIGSTOP:
                asyncio.get_running_loop().call_later(FROZEN_S, os.kill, pid, signal.SIGCONT)

        span, seen = await outage(lambda: client.call(verb, body), fault)
        spans.append(span)
        errors += seen
        await asyncio.sleep(STEADY_S)
    told = ", ".join(f"{code} {count}" for code, count in errors.items()) or "nothing"
    spans.sort()
    return f"{what.name} {name}, {verb}: {statistics.median(spans):.1f} s ({spans[0]:.1f}-{spans[-1]:.1f}); {told}"


async def reclaimed(client: Client, url: str, folder: Path) -> str:
    """Return how long after a worker's SIGKILL another one begins its task (a lease of 3 s)."""
    spans = []
    for n in range(ROUNDS):
        (folder / f"crew{n}").mkdir()
        crew = Workers(url, folder / f"crew{n}", 1)
        async with client.events(entity="execution") as events:
            run = await client.submit("soak.slow", {"seconds": 3}, lane=LANES[0])
            killed = None
            async for event in events:
                if event.id != run.execution_id or event.event != "started":
                    continue
                if killed is not None:
                    spans.append(time.monotonic() - killed)
                    break
                os.kill(crew.pids()["worker-1"], signal.SIGKILL)
                killed = time.monotonic()
        await crew.stop()
    spans.sort()
    return f"SIGKILL worker: {statistics.median(spans):.1f} s ({spans[0]:.1f}-{spans[-1]:.1f})"


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="penstock-outages-") as name:
        folder = Path(name)
        async with Up.open(folder, *BARE) as up, await Client.connect(up.facts["nats_url"]) as client:
            print(await reclaimed(client, up.facts["nats_url"], folder), flush=True)
            for service, (verb, body) in ASKED.items():
                print(await measure(client, up, service, verb, body, signal.SIGKILL), flush=True)
            for server in ("valkey-server", "nats-server"):
                for what in (signal.SIGKILL, signal.SIGSTOP):
                    print(await measure(client, up, server, "lane.list", {}, what), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
