"""Kill a signal-router after its change is in Valkey and before it acknowledges the message: one effect, not two."""

from pathlib import Path
from typing import Any

from flows_by_verb import get, make_flow
from penstock.bus import streams
from proxies import NatsProxy
from running_penstock import RunningPenstock, fence
from service_processes import kill, process_of
from trail import counted_trail, emptied

ROUTER = "signal-router"
MANY = 20
BUILD = {"kind": "external_event", "topic": "ci.build", "correlation_id": "42"}


async def suspended(penstock: RunningPenstock, condition: dict[str, Any]) -> dict[str, Any]:
    """Create an execution that waits for signals. Return its waitpoint, with the execution's id."""
    await penstock.create()
    task = await penstock.begin(lease_ttl_ms=600_000)
    waitpoint = await penstock.request("lease.suspend", fence(task) | {"condition": condition})
    return waitpoint | {"execution_id": task["execution_id"]}


async def send(penstock: RunningPenstock, waitpoint: dict[str, Any], name: str) -> None:
    subject = f"{penstock.root}.signal.{waitpoint['waitpoint_id']}.{name}"
    await penstock.js.publish(subject, b"", headers={"Penstock-Token": waitpoint["token"]})


async def test_each_signal_counts_once(nats_url: str, valkey_url: str, tmp_path: Path) -> None:
    async with RunningPenstock.open(nats_url, valkey_url) as penstock, NatsProxy.before(nats_url) as proxy:
        await penstock.running.pop(ROUTER).stop()
        async with process_of(penstock, ROUTER, tmp_path / "first", proxy.url) as first:
            resumed = [await suspended(penstock, {"name": "go"}) for _ in range(MANY)]
            counting = [
                await suspended(penstock, {"count": 2, "of": [{"name": "vote"}]}) for _ in range(MANY)
            ]
            proxy.hold_acks()
            for one, other in zip(resumed, counting, strict=True):
                await send(penstock, one, "go")
                await send(penstock, other, "vote")
            await proxy.held_back(2 * MANY)
            await kill(first)
        states = [(await penstock.get(each["execution_id"]))["state"] for each in resumed + counting]
        assert states == ["ready"] * MANY + ["suspended"] * MANY, "what was handled was not committed"
        async with process_of(penstock, ROUTER, tmp_path / "second"):
            await emptied(penstock, streams.SIGNALS)
            events = await counted_trail(penstock)
            for each in resumed:
                assert events["execution", each["execution_id"], "resumed"] == 1
                assert events["waitpoint", each["waitpoint_id"], "signal_recorded"] == 1
                assert not events["waitpoint", each["waitpoint_id"], "signal_ignored"]
            for each in counting:
                waitpoint = await penstock.request("waitpoint.get", {"waitpoint_id": each["waitpoint_id"]})
                assert (waitpoint["status"], waitpoint["received"]) == ("active", {"vote": 1})
                await send(penstock, each, "vote")
            for each in counting:
                await penstock.reaches(each["execution_id"], "ready")


async def test_each_event_wakes_a_flow_once(nats_url: str, valkey_url: str, tmp_path: Path) -> None:
    async with RunningPenstock.open(nats_url, valkey_url) as penstock, NatsProxy.before(nats_url) as proxy:
        await penstock.running.pop(ROUTER).stop()
        async with process_of(penstock, ROUTER, tmp_path / "first", proxy.url) as first:
            flows = [await make_flow(penstock, "a", state={"n": 0}) for _ in range(MANY)]
            waits = [{"flow_id": flow["flow_id"], "wait": BUILD} for flow in flows]
            for wait in waits:
                await penstock.request("flow.set_waiting", wait)
            proxy.hold_acks()
            headers = {"Penstock-Correlation-Id": "42"}
            await penstock.js.publish(f"{penstock.root}.event.ci.build", b'{"n": 1}', headers=headers)
            await proxy.held_back(1)
            await kill(first)
        for flow in flows:
            found = await get(penstock, flow)
            assert (found["status"], found["state"]["event"]) == ("running", {"n": 1})
        async with process_of(penstock, ROUTER, tmp_path / "second"):
            for wait in waits:  # now the event that was not acknowledged would find them waiting again
                assert (await penstock.request("flow.set_waiting", wait))["status"] == "waiting"
            await emptied(penstock, streams.EVENTS_IN)
            events = await counted_trail(penstock)
            for flow in flows:
                assert (await get(penstock, flow))["status"] == "waiting"
                assert events["flow", flow["flow_id"], "resumed"] == 1
