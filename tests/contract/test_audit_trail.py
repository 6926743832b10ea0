"""The audit trail as any client sees it: over NATS only."""

import asyncio
from typing import Any

from penstock import audit
from penstock.bus import streams
from running_penstock import WAIT_S, RunningPenstock, fence


async def trail(penstock: RunningPenstock) -> list[audit.Event]:
    """Return all events in the audit stream."""
    stream = streams.stream_name(penstock.root, streams.AUDIT)
    last = (await penstock.js.stream_info(stream)).state.last_seq
    return [
        audit.decode(body) async for page in audit.pages(penstock.nats, stream, 1, last) for _, body in page
    ]


async def settled(penstock: RunningPenstock, execution_id: str) -> list[audit.Event]:
    """Return one execution's events, once the stream holds as many of them as the execution's record counts."""
    seq = (await penstock.get(execution_id))["seq"]

    async def of_it() -> list[audit.Event]:
        return [event for event in await trail(penstock) if event.id == execution_id]

    return await penstock.until(of_it, lambda events: len(events) >= seq, "all its events")


async def test_each_change_of_state_is_in_the_trail_once_in_order(penstock: RunningPenstock):
    execution_id = await penstock.create(namespace="billing")
    task = await penstock.begin()
    await penstock.request("lease.complete", {**fence(task), "result": 1})
    record = await penstock.reaches(execution_id, "completed")
    events = await settled(penstock, execution_id)
    assert [event.seq for event in events] == list(range(1, record["seq"] + 1))
    assert [event.event_id for event in events] == [f"{execution_id}:{event.seq}" for event in events]
    assert {(event.namespace, event.entity, event.schema_version) for event in events} == {
        ("billing", "execution", 1)
    }
    assert events[0].event == "created"
    assert events[-1].to == "completed"
    moves = [(event.from_, event.to) for event in events if event.to]
    assert [before for before, _ in moves[1:]] == [after for _, after in moves[:-1]]


async def test_the_chain_of_a_busy_house_is_whole(penstock: RunningPenstock):
    specs = [{"kind": "test.job", "lane": f"lane{number % 3}"} for number in range(300)]
    created = await penstock.request("execution.create", specs)
    last = created[-1]["ok"]["execution_id"]
    await settled(penstock, last)
    report = await audit.verify(penstock.nats, streams.stream_name(penstock.root, streams.AUDIT))
    assert report.ok, report.sentence()
    assert report.events >= 300


async def test_one_execution_can_be_followed_live_by_its_id(penstock: RunningPenstock):
    heard: asyncio.Queue[Any] = asyncio.Queue()
    await penstock.nats.subscribe(f"{penstock.root}.audit.*.execution.*.>", cb=heard.put)
    await penstock.nats.flush()
    execution_id = await penstock.create()
    message = await asyncio.wait_for(heard.get(), WAIT_S)
    assert message.subject == f"{penstock.root}.audit.default.execution.created.{execution_id}"
    assert audit.decode(message.data).id == execution_id
    stream = streams.stream_name(penstock.root, streams.AUDIT)
    stored = await penstock.until(
        lambda: penstock.js.stream_info(stream, subjects_filter=">"),
        lambda info: info.state.messages > 0,
        "a stored event",
    )
    assert f"{penstock.root}.audit.default.execution.created" in stored.state.subjects
