"""Kill every service and a worker under many durable functions: all end, and each step's effect is counted."""

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

import nats.errors

import commands
from commands import Up
from penstock import Client, PenstockError
from penstock.verbs import SERVICES
from waves import audit_events, ended, retrying

FUNCTIONS = int(os.environ.get("DURABLE_FUNCTIONS", "150"))
"""`DURABLE_FUNCTIONS=1000` takes about two minutes."""
DEADLINE_S = 90.0 + FUNCTIONS / 2
STEPS = ("begin", "a", "b", "c", "after-nap", "after-signal", "child")
"""The effects of one function of durable_worker.py, with its child's."""
WORKER = Path(__file__).parent / "durable_worker.py"


async def start_worker(nats_url: str, effects: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(WORKER),
        env={**os.environ, "PENSTOCK_NATS_URL": nats_url, "EFFECTS": str(effects)},
        stderr=asyncio.subprocess.DEVNULL,
    )


async def send_signals(client: Client) -> None:
    """Send each function its signal as soon as it waits for it, for ever. A repeat counts once."""
    while True:
        with contextlib.suppress(PenstockError, nats.errors.Error, TimeoutError):
            waiting = [
                row.execution_id
                async for row in client.search(kind="durable.all", states=["suspended"])
                if row.reason == "signal"
            ]
            for each in waiting:
                await client.send_signal(each, "go", waitpoint_key="go", signal_id=f"go-{each}")
        await asyncio.sleep(0.05)


async def test_each_effect_is_counted(tmp_path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    effects = tmp_path / "effects"
    effects.touch()
    async with Up.open(tmp_path) as up:
        url = up.facts["nats_url"]
        workers = [await start_worker(url, effects) for _ in range(2)]

        async def lines(number: int) -> None:
            while effects.read_text().count("\n") < number:
                assert time.monotonic() < deadline, f"there are not {number} effects"
                await asyncio.sleep(0.02)

        async with await Client.connect(url) as client:
            sending = asyncio.create_task(send_signals(client))
            try:
                runs = await asyncio.gather(
                    *(
                        retrying(lambda n=n: client.submit("durable.all", idempotency_key=f"f-{n}"), deadline)
                        for n in range(FUNCTIONS)
                    )
                )
                ids = [run.execution_id for run in runs]
                # One kill after the other, each when so much more has been done: they fall into all stages.
                victims = [*SERVICES, "worker", "worker"]
                for place, victim in enumerate(victims, start=1):
                    await lines(FUNCTIONS * len(STEPS) * place // (len(victims) + 1))
                    if victim == "worker":
                        workers[0].kill()
                        await workers[0].wait()
                        workers = [workers[1], await start_worker(url, effects)]
                    else:
                        commands.kill(up.facts["pids"][victim])
                records = await ended(client, ids, deadline)
                journals = {each: [entry async for entry in client.journals.read(each)] for each in ids}
            finally:
                sending.cancel()
                for worker in workers:
                    worker.terminate()
                await asyncio.gather(*(worker.wait() for worker in workers))
        children = {entry.child_id: each for each in ids for entry in journals[each] if entry.child_id}
        trail = await audit_events(url, {*ids, *filter(None, children)})

    assert Counter(record.state for record in records.values()) == {"completed": FUNCTIONS}
    assert all(list(record.result) == list(STEPS) for record in records.values())
    assert len(children) == FUNCTIONS, "each function has one child"
    lost = Counter[str]()  # leases that were lost before their end, by function
    for execution_id, events in trail.items():
        assert [event.seq for event in events] == list(range(1, len(events) + 1)), "events are missing"
        lost[children.get(execution_id, execution_id)] += sum(event.event == "reclaimed" for event in events)
    counted = Counter(tuple(line.split()) for line in effects.read_text().splitlines())
    assert set(counted) == {(each, step) for each in ids for step in STEPS}, "each effect has happened"
    for (execution_id, step), times in counted.items():
        assert times <= 1 + lost[execution_id], f"{step} was done again, and no worker had died"
    assert sum(lost.values()), "no worker was killed at work"
