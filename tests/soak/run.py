"""One soak: load and faults, then wait until all has ended, then check."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from penstock import Client
from soak import journal as journals
from soak.checker import Findings, check
from soak.deployment import Deployment
from soak.ending import Ending
from soak.faults import LONGEST_S, Faults
from soak.journal import Journal, Tail
from soak.load import Load

SAY_EVERY_S: Final = 10.0


@dataclass
class Result:
    """What a soak has shown. drained_s: how long it took until all had ended; None if it has not."""

    seed: int
    load_s: float
    drained_s: float | None
    findings: Findings
    stories: dict[str, int]
    faults: list[tuple[float, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.drained_s is not None and not self.findings.problems


async def soak(
    folder: Path,
    *,
    seconds: float,
    seed: int,
    rate: float,
    patience_s: float,
    say: Callable[[str], None],
    longest_s: float = LONGEST_S,
    nodes: int = 1,
) -> Result:
    """Run one soak in an empty folder, which then has all logs and journals.

    rate: stories a second; patience_s: how long all may take to end after load and faults have ended; longest_s: the
    longest SIGSTOP; nodes: of `penstock up`.
    """
    async with (
        Deployment.open(folder, nodes=nodes) as deployment,
        await Client.connect(deployment.url) as client,
    ):
        load = Load(client, Journal(folder / "load.jsonl"), Tail(folder), seed, rate)
        await load.prepare()
        faults = Faults(seed, deployment.pids, longest_s)
        ending = Ending(client)
        loading = asyncio.create_task(load.run())
        breaking = asyncio.create_task(faults.run(lambda text: say(f"  fault: {text}")))
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0 and not loading.done():
            await asyncio.sleep(min(SAY_EVERY_S, left))
            told = ", ".join(f"{what} {count}" for what, count in sorted(load.counts.items()))
            say(f"{time.monotonic() - began:.0f} s: {load.open} stories open; {told}")
        load.stop()
        breaking.cancel()
        await asyncio.gather(breaking, return_exceptions=True)
        load_s = time.monotonic() - began
        say("load and faults have ended; waiting until all is done")
        drained_s = await ending.wait(loading, patience_s, say)
        if loading.done():
            await loading  # which raises what broke the load
        findings = check(ending.messages, ending.dead_ids, journals.read(folder))
    return Result(seed, load_s, drained_s, findings, dict(load.counts), faults.log)
