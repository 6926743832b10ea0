"""An execution is read whichever release has stored it (lua/execution/form.lua), shortened or not (core/words.lua)."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from state_machine import StateMachine

pack = msgspec.msgpack.encode
FENCE = ("execution_id", "attempt_index", "lease_id", "lease_epoch")
FIELDS = {"tags": {"a": "b"}, "deadline_at": 4_000_000_000_000, "priority": 3, "max_attempts": 2}


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


async def store_as_before(machine: StateMachine, execution_id: str, **more: Any) -> None:
    """Write a new execution again, as releases before 0.2 did: a map by name, and its one event behind it."""
    x = await machine.get(execution_id)
    now = x["created_at"]
    record = {
        "kind": "t",
        "lane": "default",
        "state": "ready",
        "fresh": True,
        "seq": 1,
        "input": x["input"],
        **more,
    }
    record |= {"created_at": now, "updated_at": now, "ready_at": now}
    event = [1, "created", now, "", "", "ready", "", {"kind": "t", "lane": "default"}]
    key = f"{machine.root}:{{0}}:x:{execution_id}"
    await machine.stores["scheduler"].execute("SET", key, pack(record) + pack(event))


async def live(machine: StateMachine, execution_id: str) -> tuple[list[Any], dict[str, Any], list[Any]]:
    """Let an execution fail and complete. Return its task, the record at the end and the names of its events."""
    [first] = await machine.take()
    await machine.outcome("fail", first, retry_after_ms=1)
    machine.skew_ms += 1000
    await machine.due("lease-keeper")
    [task] = await machine.take()
    assert task["execution_id"] == execution_id
    await machine.outcome("complete", task, result='"done"')
    history = await machine("scheduler", "history", execution_id=execution_id, seq=0, offset=0, limit=50)
    names = [event[1] for event in history[2:]]  # type: ignore[index]
    return task, await machine.get(execution_id), names  # type: ignore[return-value]


@pytest.mark.parametrize("fields", [{}, FIELDS])
async def test_an_execution_stored_by_an_earlier_release_goes_on(
    machine: StateMachine, fields: dict[str, Any]
) -> None:
    new = await machine.create(input='"text"', **{"max_attempts": 2, **fields})
    ends = [await live(machine, new)]
    old = await machine.create(input='"text"', **{"max_attempts": 2, **fields})
    await store_as_before(machine, old, **{"max_attempts": 2, **fields})
    assert (await machine.get(old))["input"] == '"text"'
    ends.append(await live(machine, old))
    kept = [
        {
            name: value
            for name, value in record.items()
            if name not in ("execution_id", "attempt_id") and not name.endswith("_at")
        }
        for _, record, _ in ends
    ]
    assert kept[0] == kept[1]
    assert (kept[0]["result"], kept[0]["seq"], kept[0]["state"]) == ('"done"', 6, "completed")
    assert ends[0][2] == ends[1][2]
    for _, record, _ in ends:
        times = [record[name] for name in ("created_at", "ready_at", "started_at", "finished_at")]
        assert times[0] <= times[2] <= times[1] <= times[3] == record["updated_at"]


WORDS = (Path(__file__).parents[2] / "lua" / "core" / "words.lua").read_text()
PARTS = (
    b"\xc1",
    b"\x00",
    b"\xff",
    b"\xa5ready",
    b"\xa5readyx",
    b"\xa4park",
    b"\xcf\0\0\1",
    b"\xcf\0\0",
    b"%",
    b"\xc1\xff",
    b"a",
)


async def test_what_is_shortened_comes_back(machine: StateMachine) -> None:
    chance = random.Random(7)
    texts = [b"".join(chance.choices(PARTS, k=chance.randrange(30))) for _ in range(500)]
    texts += [bytes(chance.randrange(256) for _ in range(200)) for _ in range(100)]
    script = f"local Words = {{}}\n{WORDS}\nlocal found = {{}}\n" + (
        "for i, text in ipairs(ARGV) do found[i] = Words.whole(Words.short(text)) end\nreturn found"
    )
    assert await machine.stores["scheduler"].execute("EVAL", script, 0, *texts) == texts


async def test_a_history_tells_what_the_outbox_told(machine: StateMachine) -> None:
    """Frequent events are kept briefly (lua/execution/history.lua), and are read as they were told."""
    retried = await machine.create(max_attempts=2)
    await live(machine, retried)
    begun_later = await machine.create(lane="default", kind="other")
    [task] = await machine.take(start=False)
    await machine("lease-keeper", "start", **{name: task[name] for name in FENCE})
    for pct in (1, 2):  # the second is told when the execution moves
        await machine.outcome("progress", task, pct=pct)
    await machine.outcome("complete", task)
    scheduled = await machine.create(run_at=4_000_000_000_000)
    for execution_id in (retried, begun_later, scheduled):
        told = await machine.events("execution", execution_id)
        read: list[Any] = []
        offset, more = 0, True
        while more:
            offset, more, event = await machine(  # type: ignore[misc]
                "scheduler", "history", execution_id=execution_id, seq=len(read), offset=offset, limit=1
            )
            read.append(event)
        assert read == told
