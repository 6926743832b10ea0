"""Publish random bytes under random headers on every published subject: each message is settled, and none is a bug.

The bodies are the shapes that the subject expects, with wrong fields, cut short, or random bytes. Some name an
existing waitpoint, flow or topic, with the right token.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from nats.js.api import DeliverPolicy

from penstock.bus.streams import DEAD, EVENTS_IN, OBSERVATIONS, SIGNALS, stream_name
from running_penstock import NOWHERE, RunningPenstock, fence

MESSAGES = 200
"""For each of the subjects."""
SEED = 11
VALUES: list[Any] = [
    None,
    "",
    "x",
    "ü\u0000",
    "succeeded",
    "running",
    0,
    -1,
    2**53 + 1,
    2**64,
    1.5,
    True,
    [],
    {},
]
HEADER_VALUES = ["", "1", "-1", "9" * 30, "ünï", "x" * 3000, "{}", "2026-11-28T00:00:00Z", "1e400", "%00"]


class Noise:
    """Random bodies and headers, the same ones in every run."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def body(self, good: dict[str, Any]) -> bytes:
        """Return the good body, or one that is wrong in a field, cut short, or nothing but bytes."""
        pick = self.pick
        match pick.randrange(5):
            case 0:
                return msgspec.json.encode(good)
            case 1:
                return pick.randbytes(pick.choice([0, 1, 7, 400]))
            case 2:
                whole = msgspec.json.encode(good)
                return whole[: pick.randrange(len(whole))]
            case 3:
                return b"[" * pick.choice([1, 500, 20_000])
            case _:
                return msgspec.json.encode({**good, pick.choice([*good, "more"]): pick.choice(VALUES)})

    def headers(self, names: list[str], token: str = "") -> dict[str, str]:
        """Return some of the headers that the services read, and one that they do not."""
        pick = self.pick
        found = {name: pick.choice(HEADER_VALUES) for name in names if pick.random() < 0.4}
        if token and pick.random() < 0.6:
            found["Penstock-Token"] = pick.choice([token, token[:-1], token.upper()])
        return {**found, f"X-{pick.randrange(10**6)}": "noise"}


async def settled(penstock: RunningPenstock, stream: str) -> None:
    """Wait until every consumer of the stream has taken and settled all of its messages."""

    async def left() -> int:
        consumers = await penstock.js.consumers_info(stream)
        assert consumers, f"nothing consumes {stream}"
        return sum((each.num_pending or 0) + (each.num_ack_pending or 0) for each in consumers)

    await penstock.until(left, lambda count: count == 0, f"all of {stream} is settled")


async def reasons(penstock: RunningPenstock) -> list[str]:
    """Return why each dead letter is one."""
    stream = stream_name(penstock.root, DEAD)
    count = (await penstock.js.stream_info(stream)).state.messages
    letters = await penstock.js.subscribe(
        f"{penstock.root}.dead.>", stream=stream, ordered_consumer=True, deliver_policy=DeliverPolicy.ALL
    )
    found = [await letters.next_msg(20) for _ in range(count)]
    return [(each.headers or {}).get("Penstock-Dead-Reason", "") for each in found]


async def test_no_published_message_is_a_bug(
    penstock: RunningPenstock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    noise, root, other = Noise(SEED), penstock.root, f"other-{penstock.root}"
    await penstock.create()
    task = await penstock.begin()
    waitpoint = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "k"})
    flow_body = {"controller_id": "c", "goal": "g", "owner": "o"}
    flow = (await penstock.request("flow.create_mirrored", flow_body))["flow_id"]
    await penstock.js.add_stream(name=other.upper(), subjects=[f"{other}.>"])
    await penstock.request(
        "mirror_rule.put",
        {
            "name": "noise",
            "subject": f"{other}.build.*",
            "stream": other.upper(),
            "flow": {"key": {"token": 3}, "create": {**flow_body, "goal": "build {key}"}},
            "run_id": {"jmespath": "job.id"},
            "task": {"header": "X-Task"},
            "status": {"jmespath": "state"},
            "observed_at": {"header": "X-At"},
        },
    )
    step = {"flow_id": flow, "run_id": "r", "task": "t", "status": "running", "observed_at": 5}
    common = ["Penstock-Message-Id", "Penstock-Request-Id", "Penstock-Correlation-Id", "traceparent"]

    def signal() -> tuple[str, bytes, dict[str, str]]:
        to = noise.pick.choice([waitpoint["waitpoint_id"], NOWHERE, "nonsense"])
        name = noise.pick.choice(["approved", "ü", "x" * 300])
        headers = noise.headers(common, waitpoint["token"])
        return f"{root}.signal.{to}.{name}", noise.body({"a": 1}), headers

    def observation() -> tuple[str, bytes, dict[str, str]]:
        to = noise.pick.choice([flow, NOWHERE, "nonsense"])
        return f"{root}.observation.{to}", noise.body(step), noise.headers(common)

    def event() -> tuple[str, bytes, dict[str, str]]:
        topic = noise.pick.choice(["ci.build", "ü", "x" * 300])
        return f"{root}.event.{topic}", noise.body({"a": 1}), noise.headers(common)

    def mirrored() -> tuple[str, bytes, dict[str, str]]:
        key = noise.pick.choice(["1", "ü", "x" * 300])
        body = noise.body({"job": {"id": "r"}, "state": "running"})
        return f"{other}.build.{key}", body, noise.headers([*common, "X-Task", "X-At"])

    made: dict[str, Callable[[], tuple[str, bytes, dict[str, str]]]] = {
        stream_name(root, SIGNALS): signal,
        stream_name(root, OBSERVATIONS): observation,
        stream_name(root, EVENTS_IN): event,
        other.upper(): mirrored,
    }
    for make in made.values():
        for _ in range(MESSAGES // 50):
            batch = [make() for _ in range(50)]
            await asyncio.gather(
                *(penstock.js.publish(subject, body, headers=headers) for subject, body, headers in batch)
            )
    for stream in made:
        await settled(penstock, stream)
    why = await reasons(penstock)
    assert why, "nothing that was sent was wrong"
    assert not [each for each in why if each.startswith(("internal", "valkey_unavailable"))]
    assert not [
        each.getMessage() for each in caplog.records if each.exc_info or each.levelno >= logging.ERROR
    ]
    assert all(service.health.ready for service in penstock.running.values())
    await penstock.js.delete_stream(other.upper())
