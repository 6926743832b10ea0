"""A full disk: what is refused is told with a typed error, and once there is room again nothing is lost."""

import asyncio
import time
from pathlib import Path
from typing import Any

import nats
import pytest

import commands
from commands import BARE, Up
from penstock import Client, PenstockError, audit
from penstock.local.refusals import unready
from small_disk import small_disk

DEADLINE_S = 60.0


async def until(look: Any, holds: Any, what: str) -> Any:
    """Repeat a look until it holds. A typed error that passes counts as 'not yet'."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        seen: Any = None
        try:
            seen = await look()
            if holds(seen):
                return seen
        except PenstockError as error:
            assert error.retryable, error
        assert time.monotonic() < deadline, f"{what} did not come about; last seen: {seen!r}"
        await asyncio.sleep(0.1)


async def missing(up: Up, service: str) -> list[str]:
    return await asyncio.to_thread(unready, up.facts["metrics_urls"][service])


async def doctor(up: Up) -> dict[str, Any]:
    """Return the doctor's checks that failed, by name."""
    said = await commands.penstock("doctor", "--json", cwd=up.folder)
    failed = {check["name"]: check for check in said.json["checks"] if check["ok"] is False}
    assert said.code == (1 if failed else 0)
    return failed


async def ended_in_the_trail(url: str, ids: set[str]) -> None:
    """Wait until the audit stream has the last event of all these executions; then it must be whole."""
    connection = await nats.connect(url)

    async def ended() -> set[str]:
        last = (await connection.jetstream().stream_info("PENSTOCK_AUDIT")).state.last_seq
        pages = audit.pages(connection, "PENSTOCK_AUDIT", 1, last)
        events = [audit.decode(body) async for page in pages for _, body in page]
        return {event.id for event in events if event.to == "canceled"}

    await until(ended, lambda found: ids <= found, "the whole trail")
    report = await audit.verify(connection, "PENSTOCK_AUDIT")
    assert report.ok, report.sentence()
    await connection.close()


async def test_nats_disk_is_full_and_has_room_again(tmp_path: Path) -> None:
    """nats-server refuses messages from then on: that is noticed, and `penstock up` starts it again."""
    with small_disk(tmp_path / ".penstock" / "nats", 192) as disk:
        async with Up.open(tmp_path, *BARE, "--durability", "process") as up:
            url = up.facts["nats_url"]
            async with await Client.connect(url, timeout=2.0) as client:
                before = await client.submit("nobody.works", lane="nowhere")
                disk.fill()
                # Work goes on without JetStream: executions need Valkey alone, and their events wait there.
                during = await client.submit("nobody.works", lane="nowhere")
                with pytest.raises(PenstockError) as refused:
                    await client.publish_event("topic", "1", event_id="refused")
                assert refused.value.code == "timeout" and "JetStream" in refused.value.message
                await until(
                    lambda: missing(up, "signal-router"), lambda found: "PENSTOCK_EVENTS_IN" in found, "red"
                )
                await until(
                    lambda: missing(up, "audit-relay"), lambda found: "PENSTOCK_AUDIT" in found, "red"
                )
                failed = await doctor(up)
                assert "no space left" in failed["PENSTOCK_EVENTS_IN"]["found"]
                assert "restart nats-server" in failed["PENSTOCK_EVENTS_IN"]["advice"]
                assert "PENSTOCK_AUDIT" in failed["audit-relay"]["found"]

                first = up.facts["server_pids"]["nats-server"]
                disk.free()
                await until(
                    lambda: client.publish_event("topic", "1", event_id="refused"), bool, "the same event"
                )
                assert up.facts["server_pids"]["nats-server"] != first
                for run in (before, during):
                    await until(lambda run=run: client.cancel(run.execution_id), bool, "an answer")
                await ended_in_the_trail(url, {before.execution_id, during.execution_id})
                for service in ("signal-router", "audit-relay"):
                    await until(
                        lambda service=service: missing(up, service), lambda found: not found, "readiness"
                    )
                assert await doctor(up) == {}


async def test_valkeys_disk_is_full_and_has_room_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / ".penstock" / "valkey", 32) as disk:
        async with Up.open(tmp_path, *BARE) as up, await Client.connect(up.facts["nats_url"]) as client:
            kept = {(await client.submit("nobody.works", n, lane="nowhere")).execution_id for n in range(20)}
            disk.fill()
            began = time.monotonic()
            with pytest.raises(PenstockError) as refused:
                while True:  # what still fits into the last block of the disk is kept
                    kept.add((await client.submit("nobody.works", lane="nowhere")).execution_id)
            print("refused after", time.monotonic() - began, refused.value.code)
            assert refused.value.code == "valkey_unavailable"
            disk.free()
            freed = time.monotonic()
            new = await until(lambda: client.submit("nobody.works", lane="nowhere"), bool, "an answer")
            print("answers again after", time.monotonic() - freed)
            assert not [id for id in kept | {new.execution_id} if (await client.get(id)).state != "ready"]
