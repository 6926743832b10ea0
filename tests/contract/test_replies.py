"""A request cannot make a service write where the sender may not: services check reply subjects first."""

import asyncio

import msgspec
import pytest

from penstock import audit
from penstock.bus.streams import AUDIT, stream_name
from running_penstock import WAIT_S, RunningPenstock

FORGED = [
    "{root}.audit.default.execution.created.x",
    "{root}.v1.execution.create",
    "{root}.hint.ready",
    "{root}.worker.w1",
    "{root}",
    "$JS.API.STREAM.LIST",
]


@pytest.mark.parametrize("reply", FORGED)
@pytest.mark.parametrize("verb", ["execution.create", "work.next", "$SRV.PING"])
async def test_a_reply_to_penstocks_own_subjects_is_refused(
    penstock: RunningPenstock, verb: str, reply: str
) -> None:
    subject = verb if verb.startswith("$") else f"{penstock.root}.v1.{verb}"
    body = {"execution.create": {"kind": "forged"}, "work.next": {"worker_id": "w1", "wait_ms": 0}}.get(
        verb, {}
    )
    target = reply.format(root=penstock.root)
    scheduler = penstock.running["scheduler"]
    heard: list[bytes] = []

    async def hear(message: object) -> None:
        heard.append(message.data)  # pyright: ignore

    await penstock.nats.subscribe(target, cb=hear)
    before = 'penstock_refused_replies_total{component="scheduler"} 0.0'
    assert before in scheduler.metrics.exposition().decode()
    await penstock.nats.publish(subject, msgspec.json.encode(body), reply=target)
    await penstock.until(
        lambda: asyncio.sleep(0, scheduler.metrics.exposition().decode()),
        lambda text: before not in text,
        "refusal",
    )
    items = (await penstock.request("execution.list", {"kind": "forged"}))["items"]
    assert items == []
    await penstock.nats.flush()
    expected = [msgspec.json.encode(body)] if target == subject else []
    assert heard == expected


async def test_the_audit_trail_stays_whole_beside_a_strangers_message(penstock: RunningPenstock) -> None:
    await penstock.create()
    await penstock.nats.request(
        f"{penstock.root}.audit.default.execution.created.x", b'{"error":{}}', timeout=WAIT_S
    )
    execution_id = await penstock.create()
    await penstock.request("execution.cancel", {"execution_id": execution_id})
    stream = stream_name(penstock.root, AUDIT)
    report = await penstock.until(
        lambda: audit.verify(penstock.nats, stream), lambda report: report.events == 3, "three events"
    )
    assert report.ok and report.strangers == 1


async def test_a_setting_narrows_replies_to_inboxes(nats_url: str, valkey_url: str) -> None:
    async with RunningPenstock.open(nats_url, valkey_url, reply_prefixes="_INBOX.,mine.") as penstock:
        await penstock.create()  # a reply to an inbox is allowed
        heard = asyncio.get_running_loop().create_future()

        async def hear(message: object) -> None:
            heard.set_result(message.subject)  # pyright: ignore

        for subject in ("else.1", "mine.1"):
            await penstock.nats.subscribe(subject, cb=hear)
            await penstock.nats.publish(f"{penstock.root}.v1.lane.list", b"{}", reply=subject)
        async with asyncio.timeout(WAIT_S):
            assert await heard == "mine.1"
