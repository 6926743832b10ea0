"""Random durable programs on real services, whose workers die, against a plain interpreter.

The same result, each step tried as often as the program says, and once more for each crash that it was under way in:
never more, never less. Then the same code over the stored journal must find nothing that differs.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
from durable_programs import Block, Cut, Reference, each_op, program, programs, worker
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_of_models import PROFILE

from penstock.messages.common import Record
from penstock.messages.journal import Entry
from penstock.testing import Penstock, Urls, replay_check, servers
from penstock.testing.crashes import Moment, Scene

LONGEST_STEP_MS = 10_000
"""Of the clock, while a handler runs: all steps of one run of a program must not outrun a lease."""

crashes = st.dictionaries(st.integers(0, 25), st.sampled_from(["before", "after"]), max_size=4)


class Runs:
    """Runs programs, one after the other, on one Penstock in one event loop."""

    def __init__(self, urls: Urls) -> None:
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._penstock: Penstock = self._do(self._stack.enter_async_context(Penstock.open(*urls)))
        self._dead: set[str] = set()

    def _do(self, work: Any) -> Any:
        return self._runner.run(work)

    def close(self) -> None:
        self._do(self._stack.aclose())
        self._runner.close()

    def run(self, block: Block, dies_at: dict[int, Moment], seed: int) -> tuple[Scene, Record]:
        return self._do(self._run(block, dies_at, random.Random(seed)))

    async def _run(
        self, block: Block, dies_at: dict[int, Moment], chance: random.Random
    ) -> tuple[Scene, Record]:
        waits = {op["name"]: f"sent {op['name']}" for op in each_op(block) if op["op"] == "signal"}
        scene = Scene(self._penstock, worker, waits, self._dead, dies_at)
        stepping = asyncio.create_task(self._step_clock(chance))
        try:
            record = await scene.play("program", {"block": block}, {})
        finally:
            stepping.cancel()
        found = await replay_check(program, scene.journal, record)
        assert not found.differs, f"the same code over its own journal: {found}"
        return scene, record

    async def _step_clock(self, chance: random.Random) -> None:
        """Step the clock back and forth, by less than a lease in all."""
        left = LONGEST_STEP_MS
        while left > 0:
            await asyncio.sleep(chance.random() * 0.05)
            step = chance.randrange(1, left + 1)
            left -= step
            self._penstock.clock.move(step)
            await asyncio.sleep(chance.random() * 0.05)
            self._penstock.clock.move(-chance.randrange(step))


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with servers() as urls:
        made = Runs(urls)
        yield made
        made.close()


@settings(PROFILE, max_examples=max(5, PROFILE.max_examples // 3))
@given(block=programs, dies_at=crashes, seed=st.integers(0, 2**32))
def test_a_program_comes_to_the_plain_result(
    runs: Runs, block: Block, dies_at: dict[int, Moment], seed: int
) -> None:
    scene = None
    try:
        scene, record = runs.run(block, dies_at, seed)
        check(block, record, scene)
    except Exception as error:  # Hypothesis does not tell it of what fails in one of two runs only
        entries = (
            [] if scene is None else [f"{each.key} {each.status} {each.result}" for each in scene.journal]
        )
        error.add_note(f"program {block}; crashes {dies_at}; journal {entries}")
        raise


def check(block: Block, record: Record, scene: Scene) -> None:
    journal = {entry.key: entry for entry in scene.journal}
    winners = {key: winner(entry) for key, entry in journal.items() if entry.kind == "first"}
    reference = Reference(winners, [cut(entry) for entry in scene.journal if entry.kind == "cut"])
    expected = reference.run(block)
    told = (record.failure or {}).get("category") if record.state == "failed" else record.result
    where = f"with crashes {', '.join(map(str, scene.crashes))}"
    assert (record.state, told) == expected, where
    if record.state == "completed" and reference.stage is not None:
        assert journal["state:stage"].result == reference.stage, where
    for key, times in reference.steps.items():
        entry, lost = journal[key], scene.lost[key]
        assert entry.status in ("done", "failed"), f"{key} {where}"
        assert scene.ran[key] == entry.attempt + lost, f"{key} {where}"
        assert times - lost <= entry.attempt <= times, f"{key} {where}"
    undos = reference.undos if record.state == "failed" else []
    assert [key for key in scene.ran if key.startswith("undo:")] == undos, where
    for key, times in scene.ran.items():  # besides, only what branches that were given up have done
        if key not in reference.steps:
            tried = journal[key].attempt if key in journal else 0
            cut_off = 0 if key in undos else 1  # one is stopped in the middle of a step
            assert tried + scene.lost[key] <= times <= tried + scene.lost[key] + cut_off, f"{key} {where}"


def winner(entry: Entry) -> str:
    result: Any = entry.result
    return result["branch"] if isinstance(result, dict) else result


def cut(entry: Entry) -> Cut:
    result: Any = entry.result
    return Cut(result["depth"], result.get("left", []))
