"""Nothing of a call is left to the next one (lua/core/call.lua), and headers of earlier releases are understood."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from penstock.errors import PenstockError
from state_machine import StateMachine

pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode
GONE = '"' + "x" * 1000 + '"'
"""An input with a key of its own."""
FORGETS = 3000
"""Partitions of which the library keeps more than it keeps at all."""


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


def spec(kind: str = "t", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "lane": "default", **more}


async def keys_of(machine: StateMachine, partition: int) -> set[str]:
    """Return the keys of a partition, without its root."""
    root = f"{machine.root}:{{{partition}}}:"
    found = await machine.stores["scheduler"].execute("KEYS", root.replace("{", "\\{") + "*")
    return {key.decode().removeprefix(root) for key in found}


async def test_partitions_that_one_server_has_do_not_mix(machine: StateMachine) -> None:
    scheduler = machine.stores["scheduler"]
    create = {"namespace": "default", "spec": spec(fairness_key="f", capabilities=["c"])}
    for turn, partition in enumerate((0, 1, 0, 1)):
        await scheduler.call(partition, "create", {"id": f"id-{turn}", **create})
    first, second = [await keys_of(machine, partition) for partition in (0, 1)]
    assert {key for key in first if key.startswith("x:")} == {"x:id-0", "x:id-2"}
    assert {key for key in second if key.startswith("x:")} == {"x:id-1", "x:id-3"}
    shared = {key for key in first if not key.startswith("x:")} - {"partitions"}
    assert shared == {key for key in second if not key.startswith("x:")}


async def test_a_call_that_fails_at_its_end_leaves_nothing_to_the_next_one(machine: StateMachine) -> None:
    execute = machine.stores["scheduler"].execute
    lanes = f"{machine.root}:{{0}}:lanes"
    await execute("SET", lanes, "no sorted set")
    args = {"namespace": "default", "idempotency_key": "k", "digest": "d", "unique_key": "u"}
    with pytest.raises(PenstockError):
        await machine("scheduler", "create", id="failed", spec=spec(input=GONE, priority=9), **args)
    for key in await keys_of(machine, 0):  # what it had written until then
        await execute("DEL", f"{machine.root}:{{0}}:{key}")
    created = await machine("scheduler", "create", id="good", namespace="default", spec=spec())
    assert created["state"] == "ready"
    left = await keys_of(machine, 0)
    assert {key for key in left if "failed" in key or key.startswith(("uq:", "idem:", "input:"))} == set()
    [task] = await machine.take(5)
    assert task["execution_id"] == "good"
    assert await machine.names("execution", "good") == ["created", "started"]
    assert await machine.names("execution", "failed") == []


async def test_what_is_kept_of_partitions_is_bounded_and_can_be_forgotten(machine: StateMachine) -> None:
    await machine.create()
    ping = pack(["ping", {}])
    for first in range(1, FORGETS, 300):
        some = range(first, first + 300)
        asked = [each for partition in some for each in (f"{machine.root}:{{{partition}}}", ping)]
        header = b"".join(map(pack, (0, "n", "s", 0.5, "{}", False)))
        execute = machine.stores["scheduler"].execute
        assert len(await execute("FCALL", "penstock_scheduler", 0, header, *asked)) == len(some)
    second = await machine.create()
    assert second in {task["execution_id"] for task in await machine.take(2)}
    assert await machine.stores["scheduler"].execute("ZCARD", f"{machine.root}:{{0}}:all") == 2


@pytest.mark.parametrize("limits", [{"retention_ms": 5000}, '{"retention_ms": 5000}'])
async def test_a_header_may_be_a_map(machine: StateMachine, limits: Any) -> None:
    """So services of release 0.1.0 send it. The limits are those of the call, and of no other."""
    execute, root = machine.stores["scheduler"].execute, f"{machine.root}:{{0}}"
    for _ in range(2):
        await machine.create()
    tasks = await machine.take(2)
    headers = {"nonce": "n", "limits": limits}, {"nonce": "m"}
    for task, header in zip(tasks, headers, strict=True):
        fence = {name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")}
        command = pack(["complete", fence])
        replies = await execute("FCALL", "penstock_lease_keeper", 1, root, pack(header), command)
        assert unpack(replies[1]) == {"state": "completed"}
    for task, retention_ms in zip(tasks, (5000, 604_800_000), strict=True):
        due = float(await execute("ZSCORE", f"{root}:due:scheduler:x", task["execution_id"]))
        assert due - (await machine.get(task["execution_id"]))["finished_at"] == retention_ms
