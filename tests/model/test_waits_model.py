"""Random journals and parks against a plain reference: which wait has ended, and whether the execution goes on.

The reference knows nothing of places, packing or parks that are counted: it looks at all entries after every step.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest

from penstock.errors import PenstockError
from penstock.ids import new_id
from state_machine import StateMachine

STEPS: Final = 80
ENDED: Final = frozenset({"done", "failed", "canceled"})


@dataclass
class Wait:
    """An entry as it ought to be. until: in the machine's time; child: the child's id."""

    status: str
    result: str | None = None
    until: int | None = None
    waitpoint: str | None = None
    child: str | None = None
    ended_by: str | None = None

    def over(self, now: int) -> bool:
        return self.status in ENDED or (self.status == "retry" and (self.until or 0) <= now)


@dataclass
class Reference:
    """One execution. parked: keys that it is suspended on, with the mode; None while it runs."""

    entries: dict[str, Wait] = field(default_factory=dict[str, Wait])
    parked: tuple[list[str], str] | None = None

    def time_passes(self, now: int) -> None:
        """End the times that the execution is parked on, in order, until it goes on."""
        while self.parked:
            late = [
                (wait.until, key)
                for key in self.parked[0]
                if (wait := self.entries[key]).status not in ENDED
                and wait.until is not None
                and wait.until <= now
                and not (wait.status == "retry" and wait.ended_by == "seen")
            ]
            if not late:
                return
            wait = self.entries[min(late)[1]]
            if wait.status == "waiting":
                wait.status, wait.ended_by = "done", "time"
            else:
                wait.ended_by = "seen"
            self.look(now)

    def look(self, now: int) -> None:
        """Go on if the waits that it is parked on have ended."""
        if self.parked:
            over = [self.entries[key].over(now) for key in self.parked[0]]
            if any(over) if self.parked[1] == "any" else all(over):
                self.parked = None


def wanted(pick: random.Random, now: int) -> tuple[dict[str, Any], Wait]:
    """Return a random entry as the machine takes it, and as it ought to be."""
    key = f"k{pick.randrange(8)}"
    status = pick.choice(["started", "done", "failed", "canceled", "retry", "waiting", "waiting", "waiting"])
    entry: dict[str, Any] = {"key": key, "kind": "step", "status": status, "attempt": 1}
    wait = Wait(status)
    if status == "done":
        entry["result"] = wait.result = '"' + "x" * pick.choice([0, 5, 300]) + '"'
    if status == "failed":
        entry["error"] = ["error", "r", ""]
    form = pick.choice(["time", "signal", "both", "child"]) if status == "waiting" else status
    if form in ("time", "both", "retry"):
        entry["until"] = wait.until = now + pick.randrange(0, 60_000)
    if form in ("signal", "both"):
        # A waitpoint of its own for each key.
        entry["signal"] = {"id": new_id(0), "key": key, "condition": {"name": "go"}}
        wait.waitpoint = key
    if form == "child":
        wait.child = new_id(0)
        entry["child"] = {"kind": "kid", "lane": "kids", "execution_id": wait.child}
    return entry, wait


class Game:
    def __init__(self, machine: StateMachine, seed: int) -> None:
        self.machine = machine
        self.pick = random.Random(seed)
        self.reference = Reference()
        self.x = ""
        self.task: dict[str, Any] = {}

    async def now(self) -> int:
        return (await self.machine("lease-keeper", "ping"))["now"]

    def store(self, made: list[tuple[dict[str, Any], Wait]]) -> None:
        for entry, wait in made:
            before = self.reference.entries.get(entry["key"])
            if before and before.status in ENDED:
                continue
            if before and before.status == wait.status == "waiting":
                continue  # a wait that is stored again stays as it is
            self.reference.entries[entry["key"]] = wait

    async def append(self) -> None:
        made = [wanted(self.pick, await self.now()) for _ in range(self.pick.randint(1, 3))]
        await self.machine.outcome("journal_append", self.task, entries=[entry for entry, _ in made])
        self.store(made)

    async def park(self) -> None:
        now = await self.now()
        open_ = [key for key, wait in self.reference.entries.items() if wait.status in ("waiting", "retry")]
        keys = self.pick.sample(open_, self.pick.randint(1, min(3, len(open_)))) if open_ else []
        if not keys:
            return
        mode = self.pick.choice(["any", "all"])
        args = {"entries": [], "keys": keys, **({"any": True} if mode == "any" else {})}
        reply = await self.machine.outcome("park", self.task, **args)
        # A time that has passed ends its wait, whether the park is needed or not.
        for key in keys:
            wait = self.reference.entries[key]
            if wait.status == "waiting" and wait.until is not None and wait.until <= now:
                wait.status, wait.ended_by = "done", "time"
        self.reference.parked = (keys, mode)
        self.reference.look(now)
        assert (reply["outcome"] == "suspended") == (self.reference.parked is not None), (reply, keys, mode)

    async def signal(self) -> None:
        key = f"k{self.pick.randrange(8)}"
        wait = self.reference.entries.get(key)
        listens = wait is not None and wait.status == "waiting" and wait.waitpoint is not None
        args = {"execution_id": self.x, "waitpoint_key": key, "signal_id": new_id(0), "name": "go"}
        try:
            await self.machine("signal-router", "send", **args)
        except PenstockError as error:
            assert error.code == "waitpoint_not_found" and not listens, key
            return
        assert listens and wait is not None, key
        wait.status, wait.ended_by = "done", "signal"
        self.reference.look(await self.now())

    async def child(self) -> None:
        grants = (await self.machine("scheduler", "grant", worker_id="kid", lanes=["kids"], max=1))["grants"]
        if not grants:
            return
        args = {"grant_id": grants[0][0], "execution_id": grants[0][1], "worker_id": "kid", "verb": "any"}
        task = await self.machine("lease-keeper", "claim", **args, start=True)
        fails = self.pick.random() < 0.5
        if fails:
            await self.machine.outcome("fail", task, reason="r")
        else:
            await self.machine.outcome("complete", task, result="7")
        for wait in self.reference.entries.values():
            if wait.child == task["execution_id"] and wait.status == "waiting":
                wait.status, wait.ended_by = ("failed" if fails else "done"), "child"
                wait.result = None if fails else "7"
        self.reference.look(await self.now())

    async def clock(self) -> None:
        self.machine.skew_ms += self.pick.randrange(0, 30_000)
        await self.machine.due("lease-keeper")
        self.reference.time_passes(await self.now())

    async def agree(self) -> None:
        args = {"execution_id": self.x, "after": 0, "limit": 1000}
        head: list[Any] = cast("list[Any]", await self.machine("lease-keeper", "journal_read", **args))
        found = {each[0]: (each, result) for each, result in zip(head[7::2], head[8::2], strict=True)}
        assert found.keys() == self.reference.entries.keys()
        for key, wait in self.reference.entries.items():
            entry, result = found[key]
            entry += [""] * (15 - len(entry))
            assert (entry[2], entry[12] or None, result or None) == (
                wait.status,
                None if wait.ended_by == "seen" else wait.ended_by,
                wait.result,
            ), key
        state = (await self.machine.get(self.x))["state"]
        assert state == ("suspended" if self.reference.parked else state)
        if self.reference.parked is None and state != "running":
            assert state == "ready"
            [self.task] = await self.machine.take(ttl_ms=3_600_000_000)


@pytest.mark.parametrize("seed", range(5))
async def test_waits_end_as_in_the_reference(valkey_url: str, seed: int) -> None:
    async with StateMachine.open(valkey_url) as machine:
        game = Game(machine, seed)
        game.x = await machine.create()
        [game.task] = await machine.take(ttl_ms=3_600_000_000)
        for _ in range(STEPS):
            suspended = game.reference.parked is not None
            moves = [game.signal, game.child, game.clock] + (
                [] if suspended else [game.append, game.append, game.park]
            )
            await game.pick.choice(moves)()
            await game.agree()
            if (
                all(wait.status in ENDED for wait in game.reference.entries.values())
                and len(game.reference.entries) == 8
            ):
                await machine.outcome("complete", game.task)
                game.reference = Reference()
                game.x = await machine.create()
                [game.task] = await machine.take(ttl_ms=3_600_000_000)
