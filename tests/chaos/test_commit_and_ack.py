"""Kill a service between its commit to Valkey and its acknowledgement: each message has one effect all the same.

The service reaches NATS through a proxy that loses acknowledgements. The message arrives and is committed, the service
is killed, and JetStream delivers the message again, to the next one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flow_bodies import Graph
from proxy import Proxy
from running_penstock import RunningPenstock, fence
from service_process import kill, start_service

Effect = Callable[[], Awaitable[int]]
"""Returns how often the message has had its effect."""


@dataclass
class Case:
    penstock: RunningPenstock
    folder: Path
    stream: str
    publish: Callable[[], Awaitable[Any]]
    effect: Effect
    then: Callable[[], Awaitable[None]] | None = None
    """What is looked at in the end, while a successor runs."""


@pytest.fixture
async def penstock(nats_url: str, valkey_url: str) -> AsyncIterator[RunningPenstock]:
    async with RunningPenstock.open(nats_url, valkey_url) as house:
        yield house


@pytest.fixture
async def foreign(penstock: RunningPenstock) -> AsyncIterator[str]:
    """Create a stream of another system. Yield the prefix of its subjects."""
    prefix = f"other-{penstock.root}"
    await penstock.js.add_stream(name=prefix.upper(), subjects=[f"{prefix}.>"])
    yield prefix
    await penstock.js.delete_stream(prefix.upper())


async def told(penstock: RunningPenstock, events: str) -> Effect:
    """Count the audit events `<entity>.<event>` from now on."""
    heard = await penstock.nats.subscribe(f"{penstock.root}.audit.*.{events}.*")

    async def count() -> int:
        return heard.pending_msgs

    return count


async def dies_unheard(service: str, case: Case) -> None:
    """Kill the service after its commit and before its acknowledgement arrives. See the effect once, now and later."""
    penstock, publish = case.penstock, case.publish
    proxy = Proxy(penstock.settings.nats_url)
    await proxy.start()
    victim = await start_service(penstock, service, case.folder / "victim", nats_url=proxy.url)
    successor = None
    try:
        await penstock.running.pop(service).stop()  # the victim is alone
        await follows(case)
        before = await case.effect()
        proxy.loses = b"$JS.ACK."
        await publish()
        await penstock.until(case.effect, lambda count: count == before + 1, "the commit")
        await kill(victim)
        assert await unacknowledged(case) == 1
        successor = await start_service(penstock, service, case.folder / "successor")
        await penstock.until(lambda: unacknowledged(case), lambda count: count == 0, "the acknowledgement")
        assert await case.effect() == before + 1
        if case.then is not None:
            await case.then()
    finally:
        proxy.close()
        for process in (victim, successor):
            if process is not None:
                await kill(process)


async def unacknowledged(case: Case) -> int:
    """Return how many messages the stream's consumers have not acknowledged: delivered, or still to be."""
    consumers = await case.penstock.js.consumers_info(case.stream)
    return sum((each.num_ack_pending or 0) + (each.num_pending or 0) for each in consumers)


async def follows(case: Case) -> None:
    """Wait until a consumer has asked the stream for messages: what is published from now on reaches it."""

    async def asked() -> int:
        return sum(each.num_waiting or 0 for each in await case.penstock.js.consumers_info(case.stream))

    await case.penstock.until(asked, lambda count: count >= 1, "somebody who follows the stream")


async def test_a_signal(penstock: RunningPenstock, tmp_path: Path) -> None:
    execution_id = await penstock.create()
    task = await penstock.begin()
    condition = {"count": 2, "of": [{"name": "go"}]}
    waits = await penstock.request("lease.suspend", {**fence(task), "condition": condition})

    async def publish() -> None:
        subject = f"{penstock.root}.signal.{waits['waitpoint_id']}.go"
        await penstock.js.publish(subject, headers={"Penstock-Token": waits["token"]})

    effect = await told(penstock, "waitpoint.signal_recorded")
    await dies_unheard("signal-router", Case(penstock, tmp_path, own(penstock, "SIGNALS"), publish, effect))
    assert (await penstock.get(execution_id))["state"] == "suspended", "one signal counts once"


async def test_an_event(penstock: RunningPenstock, tmp_path: Path) -> None:
    graph = await Graph.of(penstock, "a")
    effect = await told(penstock, "flow.resumed")
    wait = {"kind": "external_event", "topic": "ci", "correlation_id": "1"}
    await penstock.request("flow.set_waiting", {"flow_id": graph.flow_id, "wait": wait})

    async def publish() -> None:
        headers = {"Penstock-Correlation-Id": "1"}
        await penstock.js.publish(f"{penstock.root}.event.ci", b"{}", headers=headers)

    async def waits_again() -> None:
        flow = await penstock.request("flow.set_waiting", {"flow_id": graph.flow_id, "wait": wait})
        assert flow["status"] == "waiting", "an event wakes a flow once"

    case = Case(penstock, tmp_path, own(penstock, "EVENTS_IN"), publish, effect, waits_again)
    await dies_unheard("signal-router", case)


async def test_an_observation(penstock: RunningPenstock, tmp_path: Path) -> None:
    body = {"controller_id": "c", "owner": "o", "goal": "g", "completion": "manual"}
    flow = await penstock.request("flow.create_mirrored", body)
    effect = await told(penstock, "flow.observed")

    async def publish() -> None:
        step = msgspec.json.encode({"run_id": "r", "task": "t", "status": "succeeded"})
        await penstock.js.publish(f"{penstock.root}.observation.{flow['flow_id']}", step)

    case = Case(penstock, tmp_path, own(penstock, "OBSERVATIONS"), publish, effect)
    await dies_unheard("mirror-observer", case)


async def test_a_message_that_a_rule_follows(penstock: RunningPenstock, foreign: str, tmp_path: Path) -> None:
    create = {"controller_id": "c", "owner": "rule", "goal": "{key}", "completion": "manual"}
    rule = {
        "name": "ci",
        "subject": f"{foreign}.*",
        "stream": foreign.upper(),
        "flow": {"key": {"token": 2}, "create": create},
        "run_id": {"const": "r"},
        "task": {"const": "t"},
        "status": {"const": "succeeded"},
    }
    await penstock.request("mirror_rule.put", rule)
    effect = await told(penstock, "flow.observed")

    def publish() -> Awaitable[Any]:
        return penstock.js.publish(f"{foreign}.build", b"{}")

    await dies_unheard("mirror-observer", Case(penstock, tmp_path, foreign.upper(), publish, effect))


async def test_a_message_that_triggers(penstock: RunningPenstock, foreign: str, tmp_path: Path) -> None:
    trigger = {
        "name": "orders",
        "subject": f"{foreign}.*",
        "stream": foreign.upper(),
        "execution": {"kind": "order.ship", "lane": "orders"},
    }
    await penstock.request("trigger.put", trigger)

    async def effect() -> int:
        return len((await penstock.request("execution.list", {"lane": "orders"}))["items"])

    def publish() -> Awaitable[Any]:
        return penstock.js.publish(f"{foreign}.order", b"{}")

    await dies_unheard("mirror-observer", Case(penstock, tmp_path, foreign.upper(), publish, effect))


def own(penstock: RunningPenstock, stream: str) -> str:
    return f"{penstock.root.upper()}_{stream}"
