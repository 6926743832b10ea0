"""The outbox: what a batch says of many records is one run, which a relay of release 0.1 gets as single events."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from penstock.ids import new_id
from penstock.machine.ops.audit_relay import Taken
from penstock_audit_relay.entries import Entry, read
from state_machine import StateMachine


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


async def create(machine: StateMachine, *specs: dict[str, Any]) -> list[str]:
    """Create executions in one call of the state machine."""
    ids = [new_id(0) for _ in specs]
    calls = [
        (0, "create", {"id": id, "spec": {"kind": "t", "lane": "l", "tags": {"a": "b"}} | spec})
        for id, spec in zip(ids, specs, strict=True)
    ]
    for reply in await machine.stores["scheduler"].call_many(calls):
        assert not isinstance(reply, Exception)
    return ids


async def take(machine: StateMachine, **more: Any) -> list[tuple[str, bytes]]:
    reply = await machine("audit-relay", "take", after="0", limit=100, bytes=1 << 20, **more)
    return msgspec.convert(reply, Taken).entries


def heads(blob: bytes) -> list[Any]:
    return msgspec.msgpack.decode(blob)[::2]


def entry(blob: bytes) -> Entry:
    return read(0, "1-0", blob, 1 << 20)


async def test_a_batch_that_says_the_same_is_one_run_and_the_order_stays(machine: StateMachine) -> None:
    a, b, c, d, e = await create(machine, {}, {}, {"kind": "other"}, {}, {})
    [(_, blob)] = await take(machine, runs=True)
    assert [head[2] for head in heads(blob)] == [[a, b], c, [d, e]]
    assert [subject.decode().rpartition(".")[2] for _, subject, _ in entry(blob).events] == [a, b, c, d, e]


async def test_a_relay_of_release_0_1_gets_every_event_by_itself(machine: StateMachine) -> None:
    ids = await create(machine, *[{}] * 40)
    [(entry_id, whole)] = await take(machine, runs=True)
    [(same_id, apart)] = await take(machine)
    assert same_id == entry_id
    assert [head[2] for head in heads(apart)] == ids
    assert len(whole) < len(apart) / 2
    assert entry(apart) == entry(whole)
    alone = await create(machine, {"run_at": 4_000_000_000_000})
    assert [head[2] for head in heads((await take(machine))[1][1])] == alone


async def test_what_a_failed_command_told_is_in_no_run(machine: StateMachine) -> None:
    ids = [new_id(0) for _ in range(3)]
    spec = {"kind": "t", "lane": "l"}
    calls = [(0, "create", {"id": id, "spec": spec}) for id in ids]
    calls[1][2]["spec"] = spec | {"deadline_at": 1}  # in the past
    replies = await machine.stores["scheduler"].call_many(calls)
    assert [isinstance(reply, Exception) for reply in replies] == [False, True, False]
    [(_, blob)] = await take(machine, runs=True)
    assert [head[2] for head in heads(blob)] == [[ids[0], ids[2]]]


async def test_long_events_form_no_runs(machine: StateMachine) -> None:
    for length, runs in ((900, 1), (1100, 2)):
        ids = await create(machine, {}, {})
        calls = [(0, "cancel", {"execution_id": id, "reason": "r" * length, "grace_ms": 0}) for id in ids]
        await machine.stores["cancel-reconciler"].call_many(calls)
        *_, (_, blob) = await take(machine, runs=True)
        assert len(heads(blob)) == runs
        assert [form[0] for form in entry(blob).events] == [("execution", "canceled")] * 2
