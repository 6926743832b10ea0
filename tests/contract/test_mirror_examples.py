"""The rules of examples/mirror follow other systems: NATS itself, and a taskiq program."""

import json
from pathlib import Path
from typing import Any

import pytest

from running_penstock import RunningPenstock

HERE = Path(__file__).parents[2] / "examples" / "mirror"


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / name).read_text())


async def test_streams_of_nats_are_followed(penstock: RunningPenstock) -> None:
    """nats-server's own advisories tell when a stream is created, changed or deleted."""
    client = await penstock.client()
    rule = load("jetstream_streams.json")
    await client.mirror_rules.put(rule)
    name = f"X{penstock.root}"
    made = 0

    async def followed() -> list[Any]:
        nonlocal made
        made += 1
        await penstock.js.add_stream(name=f"{name}-{made}", subjects=[f"{name}.{made}"])
        await penstock.js.delete_stream(f"{name}-{made}")
        flows = [flow async for flow in client.flows.list(owner="nats")]
        return [
            flow for flow in flows if flow.status == "finished" and flow.goal.startswith(f"stream {name}")
        ]

    [flow, *_] = await penstock.until(followed, bool, "a stream's life was followed")
    [step] = [step async for step in client.flows.run(flow.flow_id).steps()]
    assert (step.task, step.status) == ("life", "succeeded")


async def test_what_taskiq_sends_is_read(penstock: RunningPenstock) -> None:
    tested = await (await penstock.client()).mirror_rules.test(
        load("taskiq_nats.json"), load("sample_taskiq.json")
    )
    assert tested.dropped is None and tested.key == "c0ffee"
    assert tested.observation is not None
    assert tested.observation["task"] == "mail:send"
    assert tested.observation["result"] == {"args": ["a@example.com"], "kwargs": {}}


@pytest.mark.parametrize("rule", ["jetstream_streams.json", "taskiq_nats.json"])
async def test_every_rule_is_taken(penstock: RunningPenstock, rule: str) -> None:
    assert (await (await penstock.client()).mirror_rules.put(load(rule))).revision == 1
