"""Kill mirror-observers while observations arrive: all are applied in order, and no flow ends too early."""

import asyncio
import random
import signal
from pathlib import Path
from typing import Any

import msgspec

from penstock.bus import streams
from proxies import NatsProxy
from running_penstock import RunningPenstock
from service_processes import kill, process_of, start_process
from trail import counted_trail, emptied

OBSERVER = "mirror-observer"
FLOWS = 12
STEPS = 60  # of each flow, at least: runners go on until the last kill, however slow the machine is
KILLS = 4
MORE = 30


async def publish(penstock: RunningPenstock, flow_id: str, **body: Any) -> None:
    await penstock.js.publish(f"{penstock.root}.observation.{flow_id}", msgspec.json.encode(body))


async def more_published(penstock: RunningPenstock) -> None:
    """Wait until the simulated runners have published MORE further observations."""
    stream = f"{penstock.root.upper()}_OBSERVATIONS"

    async def last() -> int:
        return (await penstock.js.stream_info(stream)).state.last_seq

    before = await last()
    await penstock.until(last, lambda now: now >= before + MORE, "more observations")


async def run(penstock: RunningPenstock, flow_id: str, last_kill: asyncio.Event) -> int:
    """Play the foreign system: announce each step just before the previous step ends. Return how many there were."""
    await publish(penstock, flow_id, run_id="r0", task="t", status="running")
    step = 0
    while step + 1 < STEPS or not last_kill.is_set():
        await publish(penstock, flow_id, run_id=f"r{step + 1}", task="t", status="running")
        await publish(penstock, flow_id, run_id=f"r{step}", task="t", status="succeeded", result=step)
        await asyncio.sleep(random.uniform(0.05, 0.25))  # the step's work
        step += 1
    await publish(penstock, flow_id, run_id=f"r{step}", task="t", status="succeeded", result=step)
    return step + 1


async def test_two_observers_and_kills_drop_nothing(nats_url: str, valkey_url: str, tmp_path: Path) -> None:
    async with RunningPenstock.open(nats_url, valkey_url) as penstock:
        await penstock.running.pop("mirror-observer").stop()
        observers = [await start_process(penstock, OBSERVER, tmp_path / f"o{n}") for n in range(2)]
        body = {"controller_id": "c", "owner": "o", "goal": "g", "completion": "all_steps"}
        try:
            flows = [(await penstock.request("flow.create_mirrored", body))["flow_id"] for _ in range(FLOWS)]
            last_kill = asyncio.Event()
            running = asyncio.gather(*(run(penstock, flow_id, last_kill) for flow_id in flows))
            for number in range(KILLS):
                victim = observers.pop(random.randrange(2))
                victim.send_signal(signal.SIGSTOP)  # so that it dies holding unhandled messages
                await more_published(penstock)
                await kill(victim)
                observers.append(await start_process(penstock, OBSERVER, tmp_path / f"again{number}"))
            last_kill.set()
            steps = await running

            async def look() -> list[Any]:
                return [await penstock.request("flow.get", {"flow_id": flow_id}) for flow_id in flows]

            def ended(found: list[Any]) -> bool:
                return all(flow["status"] == "finished" for flow in found)

            found = await penstock.until(look, ended, "the end of all flows")
            assert [flow["counts"] for flow in found] == [{"succeeded": number} for number in steps]
        finally:
            for process in observers:
                await kill(process)


async def test_each_observation_is_applied_once(nats_url: str, valkey_url: str, tmp_path: Path) -> None:
    """The observer dies after its changes are in Valkey and before it acknowledges the messages."""
    async with RunningPenstock.open(nats_url, valkey_url) as penstock, NatsProxy.before(nats_url) as proxy:
        await penstock.running.pop(OBSERVER).stop()
        async with process_of(penstock, OBSERVER, tmp_path / "first", proxy.url) as first:
            body = {"controller_id": "c", "owner": "o", "goal": "g", "completion": "all_steps"}
            flow_id = (await penstock.request("flow.create_mirrored", body))["flow_id"]
            proxy.hold_acks()
            for status in ("pending", "running", "succeeded"):  # the last one ends the flow
                for step in range(STEPS):
                    await publish(penstock, flow_id, run_id=f"r{step}", task="t", status=status)
            await proxy.held_back(3 * STEPS)
            await kill(first)
        assert (await penstock.request("flow.get", {"flow_id": flow_id}))["status"] == "finished"
        async with process_of(penstock, OBSERVER, tmp_path / "second"):
            await emptied(penstock, streams.OBSERVATIONS)
            events = await counted_trail(penstock)
            assert events["flow", flow_id, "observed"] == 3 * STEPS
            assert not events["flow", flow_id, "observation_dropped"]
