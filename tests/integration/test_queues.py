"""Ready queues inside one FCALL, where the creates and grants of one tick come together."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.ids import new_id
from state_machine import StateMachine


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


def create(limit: str | None = None, **spec: Any) -> tuple[int, str, dict[str, Any]]:
    return 0, "create", {"id": new_id(0), "spec": {"kind": "t", **spec}, "limit": limit}


def grant(most: int = 1, *capabilities: str) -> tuple[int, str, dict[str, Any]]:
    return 0, "grant", {"worker_id": "w", "lanes": ["default"], "capabilities": capabilities, "max": most}


async def granted(machine: StateMachine, *calls: Any) -> list[int]:
    """Send all calls in one FCALL. Return how many executions each grant got."""
    replies = await machine.stores["scheduler"].call_many(calls)
    return [len(reply["grants"]) for reply in replies if "grants" in reply]


async def test_what_joins_a_queue_that_ran_dry_in_the_same_call_is_found(machine: StateMachine) -> None:
    for fair in ({}, {"fairness_key": "a"}, {"fairness_key": "b", "capabilities": ["gpu"]}):
        counts = await granted(machine, create(**fair), grant(1, "gpu"), grant(1, "gpu"), create(**fair))
        assert counts == [1, 0]
        assert await granted(machine, grant(1, "gpu")) == [1]


async def test_a_worker_that_asks_for_one_meets_tenants_that_have_work(machine: StateMachine) -> None:
    await granted(machine, *(create(fairness_key=f"t{n}") for n in range(20)))
    for _ in range(20):
        assert await granted(machine, grant(1)) == [1]
    assert await granted(machine, grant(1)) == [0]


async def test_many_grants_of_one_call_do_not_meet(machine: StateMachine) -> None:
    counts = await granted(machine, *(create() for _ in range(40)), *(grant(3) for _ in range(20)))
    assert counts == [3] * 13 + [1] + [0] * 6


async def test_a_tenant_behind_other_capabilities_has_no_second_share(machine: StateMachine) -> None:
    big = [create(fairness_key="big", capabilities=["gpu"]) for _ in range(30)]
    await granted(machine, *big, *(create(fairness_key="big") for _ in range(30)))
    small = [create(fairness_key="small") for _ in range(10)]
    await granted(machine, *small)
    ids = {each[2]["id"] for each in small}
    reply = await machine.stores["scheduler"].call(*grant(20, "gpu"))
    assert len(ids & {each[1] for each in reply["grants"]}) == 10


async def test_a_limit_that_ran_dry_hides_no_other(machine: StateMachine) -> None:
    """A worker that asks for one execution gets past the limits whose queues are empty."""
    for n in range(3):
        assert await granted(machine, create(limit=f"c/0/9/k{n}")) == []
        assert await granted(machine, grant(1)) == [1]
    await granted(machine, *(create(limit=f"c/0/9/m{n}") for n in range(3)))
    assert await granted(machine, grant(3)) == [3]
    await granted(machine, create(limit="c/0/9/last"))
    assert await granted(machine, grant(1)) == [1]


async def test_a_slot_that_nobody_had_wakes_nobody_when_it_is_freed(machine: StateMachine) -> None:
    """A refused grant frees a slot that it never had. Others woken by that would be refused and free it, forever."""
    store, token = machine.stores["scheduler"], "c/1/1/k"
    asks: list[dict[str, Any]] = [
        {"limit": token, "slot": name, "expires_at": 2**52, "asker": 0}
        for name in ("0-holder|1", "0-other|2")
    ]
    assert not await store.call(1, "admit", asks[0])
    assert (await store.call(1, "admit", asks[1]))["code"] == "concurrency_limit_exceeded"
    await store.call(1, "slot", {"token": token, "slot": "0-other|2", "expires_at": 0})
    assert machine.told("unblock") == []
    await store.call(1, "slot", {"token": token, "slot": "0-holder|1", "expires_at": 0})
    assert machine.told("unblock") == [[0, token, 8]]


async def test_what_joins_a_blocked_queue_in_the_call_that_opens_it_is_found(machine: StateMachine) -> None:
    token = "c/0/1/k"
    await machine.create(limit=token)
    [task] = await machine.take()
    waits = await machine.create(limit=token)
    assert await machine.grant() == []
    await machine("cancel-reconciler", "cancel", execution_id=waits, reason="r", grace_ms=0)
    await granted(machine, create(limit=token), (0, "unblock", {"token": token, "room": 8}))
    await machine.outcome("complete", task)
    assert await granted(machine, grant(2)) == [1]
