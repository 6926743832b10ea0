"""`penstock audit export` and `audit verify FILE`."""

import io
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import commands
from commands import Said
from penstock import audit
from penstock.bus import streams
from running_penstock import RunningPenstock, fence


async def some_work(penstock: RunningPenstock, count: int) -> list[str]:
    ids = [await penstock.create() for _ in range(count)]
    for _ in ids:
        await penstock.request("lease.complete", {**fence(await penstock.begin()), "result": 1})
    stream = streams.stream_name(penstock.root, streams.AUDIT)

    async def completed() -> set[str]:
        last = (await penstock.js.stream_info(stream)).state.last_seq
        pages = audit.pages(penstock.nats, stream, 1, last)
        events = [audit.decode(body) async for page in pages for _, body in page]
        return {event.id for event in events if event.event == "completed"}

    await penstock.until(completed, lambda seen: seen >= set(ids), "all events in the trail")
    return ids


async def test_an_exported_file_is_verified_without_a_server(penstock: RunningPenstock, tmp_path: Path):
    async def cli(*arguments: str, stdin: str = "") -> Said:
        return await commands.penstock(*arguments, stdin=stdin, **commands.told(penstock))

    ids = await some_work(penstock, 3)
    between = datetime.now(UTC)
    ids += await some_work(penstock, 2)
    file = tmp_path / "trail.jsonl"
    said = await cli("audit", "export", "--output", str(file))
    assert said.code == 0 and said.out == "" and "all of them" in said.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    nowhere = ("--nats", "nats://127.0.0.1:1")
    whole = await cli("audit", "verify", str(file), "--json", *nowhere)
    assert whole.code == 0 and whole.json["ok"], whole.err
    events = [json.loads(line) for line in file.read_text().splitlines()[1:-1]]
    assert whole.json["events"] == len(events) == events[-1]["stream_seq"]
    assert {event["id"] for event in events if event["event"] == "completed"} == set(ids)
    stream = streams.stream_name(penstock.root, streams.AUDIT)
    assert (await audit.verify(penstock.nats, stream)).last_hash == whole.json["last_hash"]

    text = file.read_text().replace('"event":"completed"', '"event":"failed"', 1)
    broken = await cli("audit", "verify", "-", *nowhere, stdin=text)
    assert broken.code == 1 and "its hash does not fit its content" in broken.err

    first = await cli("audit", "export", "--until", between.isoformat())
    second = await cli("audit", "export", "--since", between.isoformat())
    pieces = [[json.loads(line) for line in said.out.splitlines()[1:-1]] for said in (first, second)]
    assert pieces[0] + pieces[1] == events  # each event once
    assert {event["id"] for event in pieces[1] if event["event"] == "created"} == set(ids[3:])
    for said in (first, second):
        report = audit.verify_file(io.BytesIO(said.out.encode()))[1]
        assert report.ok, report.sentence()

    one = await cli("audit", "export", "--id", ids[0], "--entity", "execution")
    chosen = [json.loads(line) for line in one.out.splitlines()[1:-1]]
    assert chosen == [event for event in events if event["id"] == ids[0]]
    assert audit.verify_file(io.BytesIO(one.out.encode()))[1].ok
    onto = await cli("audit", "export", "-o", str(file))
    assert onto.code == 2 and "exists" in onto.err
