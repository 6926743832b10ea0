"""Many durable functions wake at one instant: in bounded calls, and what becomes due meanwhile is not behind them."""

from collections import Counter
from typing import Any

from state_machine import StateMachine

MANY = 150
SLICE = 20
FRESH = 10
DAY_MS = 86_400_000


async def park(machine: StateMachine, lane: str, until: int, number: int = 1) -> list[str]:
    """Create functions in a lane and let them sleep. Return their ids."""
    ids: list[str] = []
    for _ in range(number):
        ids.append(await machine.create(lane=lane))
        [task] = await take(machine, lane)
        entry: dict[str, Any] = {"key": "sleep:nap", "kind": "sleep", "name": "nap", "status": "waiting"}
        await machine.outcome("park", task, entries=[entry | {"attempt": 1, "until": until}], keys=[])
    return ids


async def take(machine: StateMachine, lane: str) -> list[dict[str, Any]]:
    granted = await machine("scheduler", "grant", worker_id="w", lanes=[lane], max=1)
    fields = {"worker_id": "w", "verb": "any", "start": True}
    return [
        await machine("lease-keeper", "claim", grant_id=each[0], execution_id=each[1], **fields)
        for each in granted["grants"]
    ]


async def test_others_that_become_due_are_not_behind_them(valkey_url: str) -> None:
    async with StateMachine.open(valkey_url) as machine:
        first = await machine("lease-keeper", "due", limit=SLICE)
        until = int(first["now"]) + DAY_MS
        flood = await park(machine, "a", until, MANY)
        [other] = await park(machine, "b", until + 1)
        machine.skew_ms += DAY_MS + 60_000

        slices = 0
        while True:
            reply = await machine("lease-keeper", "due", limit=SLICE)
            slices += 1
            assert reply["handled"] <= SLICE + FRESH, "one call handles a bounded number"
            if slices == 1:
                assert (await machine.get(other))["state"] == "ready", "the other lane waits for none of them"
                assert [task["execution_id"] for task in await take(machine, "b")] == [other]
                fresh = await machine.create(lane="b")
                assert [task["execution_id"] for task in await take(machine, "b")] == [fresh]
            if not reply["more"]:
                break
        assert slices <= MANY // SLICE + 1
        states = Counter([(await machine.get(each))["state"] for each in flood])
        assert states == {"ready": MANY}
