"""Limits kept in partition 1 for work in partition 0, where messages between the two come late, twice or never."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.ids import new_id
from state_machine import StateMachine

MINUTE = 60_000
KEY, OTHER = "c/1/1/k", "c/1/1/other"


@pytest.fixture
async def machine(valkey_url: str) -> AsyncIterator[StateMachine]:
    async with StateMachine.open(valkey_url) as machine:
        yield machine


async def admit(machine: StateMachine, token: str, slot: str, expires_at: int = 0) -> Any:
    """Ask partition 1 for room. Return what has no room, or nothing."""
    question = {"limit": token, "slot": slot, "expires_at": expires_at, "asker": 0}
    return await machine.stores["scheduler"].call(1, "admit", question)


async def tell(machine: StateMachine, token: str, slot: str, expires_at: int) -> None:
    news = {"token": token, "slot": slot, "expires_at": expires_at, "began": True}
    await machine.stores["scheduler"].call(1, "slot", news)


async def claim(machine: StateMachine, grant: list[Any], ttl_ms: int) -> dict[str, Any]:
    args = {"grant_id": grant[0], "execution_id": grant[1], "worker_id": "w", "verb": "any", "start": True}
    return await machine("lease-keeper", "claim", **args, lease_ttl_ms=ttl_ms)


async def test_a_slot_is_not_given_away_because_the_news_of_its_lease_got_lost(machine: StateMachine) -> None:
    await machine.create(limit=KEY)
    [grant] = await machine.grant()
    slot = grant[6]
    assert not await admit(machine, KEY, slot, grant[4])
    await claim(machine, grant, 10 * MINUTE)
    machine.skew_ms += MINUTE
    assert await admit(machine, KEY, "0-y|1")
    assert machine.told("slot_check") == [[0, KEY, slot]]
    ends = (await machine("scheduler", "slot_ends", slot=slot))["expires_at"]
    await tell(machine, KEY, slot, ends)
    assert await admit(machine, KEY, "0-y|1")
    assert len(machine.told("slot_check")) == 1, "there is no doubt any more"

    machine.skew_ms += 20 * MINUTE
    assert await admit(machine, KEY, "0-y|1")
    assert await machine("scheduler", "slot_ends", slot=slot) == {"expires_at": 0}
    await tell(machine, KEY, slot, 0)
    assert machine.told("unblock") == [[0, KEY, 8]]
    assert not await admit(machine, KEY, "0-y|1")


async def test_news_of_an_earlier_hold_free_nothing(machine: StateMachine) -> None:
    """Every scheduler acts on a hint, so a slower scheduler repeats what another one has already done."""
    await machine.create(limit=KEY)
    slots: list[str] = []
    for _ in range(2):
        [grant] = await machine.grant()
        assert not await admit(machine, KEY, grant[6], 2**52)
        slots.append(grant[6])
        task = await claim(machine, grant, MINUTE)
        if len(slots) == 1:
            fence = {
                name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")
            }
            await machine("scheduler", "give_back", **fence)
            await tell(machine, KEY, slots[0], 0)
    await tell(machine, KEY, slots[0], 0)
    await tell(machine, KEY, slots[0], 2**52)
    assert await admit(machine, KEY, "0-y|1")
    await tell(machine, KEY, slots[1], 0)
    assert not await admit(machine, KEY, "0-y|1")


async def test_a_limit_waits_for_all_that_refused_it(machine: StateMachine) -> None:
    """Of two executions with one limit, one was refused by the other's slot, the other by an unrelated slot."""
    both = f"{KEY}&{OTHER}"
    for limit in (both, both, KEY):
        await machine.create(limit=limit)
    assert not await admit(machine, OTHER, "0-x|1", 2**52)
    first, second, third = await machine.grant(3)
    assert not await admit(machine, KEY, first[6], 2**52)
    for token, grant in ((OTHER, first), (KEY, second), (KEY, third)):
        full = await admit(machine, token, grant[6])
        await machine("scheduler", "ungrant", execution_id=grant[1], grant_id=grant[0], full=full)
    await tell(machine, KEY, first[6], 0)
    assert machine.told("unblock") == [[0, KEY, 8]]
    await machine("scheduler", "unblock", token=KEY, room=8)
    assert [grant[1] for grant in await machine.grant(3)] == [third[1]]
    await machine("scheduler", "unblock", token=OTHER, room=8)
    assert {grant[1] for grant in await machine.grant(3)} == {first[1], second[1]}


async def test_what_never_began_has_used_nothing_up(machine: StateMachine) -> None:
    quota_id = new_id(0)
    await machine(
        "scheduler", "quota_create", id=quota_id, max_concurrent=1, max_per_window=1, window_ms=MINUTE
    )
    ids = [await machine.create(limit=f"q/{quota_id}") for _ in range(2)]
    [grant] = await machine.grant()
    assert await machine.grant() == []
    await machine("cancel-reconciler", "cancel", execution_id=grant[1], reason="r", grace_ms=0)
    [other] = await machine.grant()
    assert {grant[1], other[1]} == set(ids)


async def test_a_full_window_tells_when_it_opens_also_while_all_slots_are_taken(
    machine: StateMachine,
) -> None:
    quota_id = new_id(0)
    await machine(
        "scheduler", "quota_create", id=quota_id, max_concurrent=1, max_per_window=1, window_ms=MINUTE
    )
    await machine.create(limit=f"q/{quota_id}")
    await machine.take()
    view = await machine("scheduler", "quota_get", quota_id=quota_id)
    assert (view["running"], view["in_window"]) == (1, 1) and 0 < view["retry_after_ms"] <= MINUTE + 1
