"""`task.first`: branches that run side by side until one has ended."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

from msgspec import Raw

from penstock.bus.payloads import raw_of
from penstock.messages.journal import Entry, NewEntry
from penstock.worker.durable.branches import Branch
from penstock.worker.durable.errors import StepFailed, name_in
from penstock.worker.durable.losers import Left, open_calls
from penstock.worker.durable.operation import Operation
from penstock.worker.durable.run import DurableRun
from penstock.worker.durable.together import (
    discard,
    give_up,
    raise_suspended,
    start,
    stop,
    suspended,
    unended,
    until_ended,
)

T = TypeVar("T")


class Won(NamedTuple, Generic[T]):
    """Which branch of `task.first` ended first, and its result."""

    branch: str
    value: T


async def first(run: DurableRun, key: str, branches: Mapping[str, Awaitable[Any]]) -> Won[Any]:
    """Run all until one has ended. The journal keeps which one, so that it is the same one in every later run."""
    try:
        entry = await run.ask(key)
    except BaseException:  # this run of the handler, or the branch that it is in, ends here
        discard(branches.values())
        raise
    if entry is not None:
        return await _won_before(run, _Winner.of(entry), branches, key)
    names, works = list(branches), tuple(branches.values())
    made, tasks, join = start(run, works, "first")
    try:
        await until_ended(tasks, asyncio.FIRST_COMPLETED)
        if suspended(tasks):
            await asyncio.wait(tasks)
        raise_suspended(tasks)
        place = next(index for index, task in enumerate(tasks) if task.done())
        lost = unended(works, tasks)
        with run.running():
            # Losers stop first: else they might make further calls while the winner is being stored.
            await stop([task for task in tasks if not task.done()])
            losers = made[:place] + made[place + 1 :]
            lost += open_calls(run.journal, losers)
            left = _left(run, works[:place] + works[place + 1 :], losers)
            won = NewEntry(
                key=key,
                kind="first",
                name=name_in(key),
                status="done",
                raw_result=_Winner(names[place], left).raw(),
            )
            await give_up(run, lost, won)
        run.journal.pass_over(left.keys)
    finally:
        join.release()
    return Won(names[place], tasks[place].result())


class _Winner(NamedTuple):
    """What the journal keeps of a race: which branch won, and what the others had done.

    Later runs leave the others out. Without `left`, the entries of their calls would count as orphans.
    """

    branch: str
    left: Left = Left()

    def raw(self) -> Raw:
        left = self.left.stored()
        return raw_of({"branch": self.branch, **left} if left else self.branch)

    @classmethod
    def of(cls, entry: Entry) -> Self:
        stored: Any = entry.result
        winner = cast("dict[str, Any]", stored)["branch"] if isinstance(stored, dict) else stored
        return cls(str(winner), Left.read(entry))


def _left(run: DurableRun, losers: Sequence[Awaitable[Any]], branches: list[Branch]) -> Left:
    """Return what was done inside the losers: in this run, and in earlier ones, of which this run has not asked for
    all when the winner is known.
    """
    if all(isinstance(each, Operation) for each in losers):
        return Left()
    return Left.of(run.state, branches, run.journal.orphans())


async def _won_before(
    run: DurableRun, won: _Winner, branches: Mapping[str, Awaitable[Any]], key: str
) -> Won[Any]:
    """Run only the branch that has won in an earlier run."""
    winner = won.branch
    losers = [each for name, each in branches.items() if name != winner]
    discard(losers)
    run.journal.pass_over([*won.left.keys, *(each.key for each in losers if isinstance(each, Operation))])
    if winner not in branches:
        raise StepFailed(key, "journal_mismatch", f"the branch {winner!r} won, and this code has none")
    _, (task,), join = start(run, (branches[winner],), "first")
    try:
        await until_ended([task], asyncio.ALL_COMPLETED)
    finally:
        join.release()
    run.state.skip(won.left.state)
    return Won(winner, task.result())
