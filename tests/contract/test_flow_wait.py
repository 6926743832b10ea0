"""flow.wait: the flow once it has ended, whatever ended it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from flow_bodies import Graph
from running_penstock import RunningPenstock, fence

WAIT_S: Final = 30.0


@pytest.fixture
async def hinted(nats_url: str, valkey_url: str) -> AsyncIterator[RunningPenstock]:
    """A Penstock in which only the hint of a flow's end can wake who waits: there is no sweep within a test's time."""
    async with RunningPenstock.open(nats_url, valkey_url, sweep_ms=600_000) as penstock:
        yield penstock


async def test_the_end_of_the_last_member_wakes_all_who_wait(hinted: RunningPenstock) -> None:
    graph = await Graph.of(hinted, "a b", "a>b")
    waiting = [await hinted.waits("flow", graph.flow_id, WAIT_S) for _ in range(3)]
    for key in ("a", "b"):
        await graph.take()
        await hinted.request("lease.complete", fence(graph.held.pop(key)))
    for flow in await asyncio.gather(*waiting):
        assert (flow["status"], flow["counts"]) == ("finished", {"completed": 2})
        assert flow == await hinted.request("flow.get", {"flow_id": graph.flow_id})


@pytest.mark.parametrize(
    ("verb", "more", "status"),
    [
        ("flow.finish", {}, "finished"),
        ("flow.fail", {"reason": "no"}, "failed"),
        ("flow.cancel", {"policy": "cancel_all"}, "cancelled"),
    ],
)
async def test_whoever_ends_it(hinted: RunningPenstock, verb: str, more: dict[str, Any], status: str) -> None:
    graph = await Graph.of(hinted, "a")
    waiting = await hinted.waits("flow", graph.flow_id, WAIT_S)
    await hinted.request(verb, {"flow_id": graph.flow_id, **more})
    assert (await waiting)["status"] == status
    assert (await hinted.request("flow.wait", {"flow_id": graph.flow_id}))["status"] == status


async def test_a_mirrored_flow_ends_with_its_steps(hinted: RunningPenstock) -> None:
    mirrored = {"controller_id": "c", "goal": "g", "owner": "o", "completion": "all_steps"}
    flow_id = (await hinted.request("flow.create_mirrored", mirrored))["flow_id"]
    waiting = await hinted.waits("flow", flow_id, WAIT_S)
    step = {"flow_id": flow_id, "run_id": "r", "task": "t", "status": "succeeded"}
    await hinted.request("flow.observe", step)
    assert (await waiting)["status"] == "finished"


async def test_the_time_limit_answers_the_flow_as_it_is(penstock: RunningPenstock) -> None:
    graph = await Graph.of(penstock, "a")
    for wait_ms in (0, 50):
        flow = await penstock.request("flow.wait", {"flow_id": graph.flow_id, "wait_ms": wait_ms})
        assert flow["status"] == "running"
    error = await penstock.refused("flow.wait", {"flow_id": graph.flow_id, "wait_ms": 60_001})
    assert error.detail == {"field": "wait_ms"}


async def test_a_scheduler_that_drains_lets_them_go(hinted: RunningPenstock) -> None:
    graph = await Graph.of(hinted, "a")
    waiting = await hinted.waits("flow", graph.flow_id, WAIT_S)
    await hinted.running["scheduler"].stop()
    assert (await waiting)["status"] == "running"  # long before the 60 s of the request have passed
