"""`task.parallel` and `task.first`: branches of a handler that run side by side."""

import asyncio
import inspect
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, Literal, NamedTuple, Self, TypeVar

from msgspec import Raw

from penstock.bus.payloads import raw_of
from penstock.messages.journal import Entry, NewEntry
from penstock.worker.durable.branches import Branch
from penstock.worker.durable.errors import (
    StepCanceled,
    StepFailed,
    StepKeyNeeded,
    TaskSuspended,
    name_in,
)
from penstock.worker.durable.operation import Operation
from penstock.worker.durable.run import DurableRun

T = TypeVar("T")

Failures = Literal["wait", "cancel"]
MOST_LEFT: Final = 1000
"""At most so many calls of losing branches are kept with the winner."""


class Won(NamedTuple, Generic[T]):
    """Which branch of `task.first` ended first, and its result."""

    branch: str
    value: T


def check(run: DurableRun, branches: Iterable[object]) -> None:
    """Refuse what cannot run side by side, before any of it runs."""
    seen: set[str] = set()
    for each in branches:
        if not inspect.isawaitable(each):
            raise TypeError(f"a branch is a durable call or a coroutine, not {each!r}")
        if isinstance(each, Operation) and each.named:
            base = each.key.partition("@")[0]
            if base in seen:
                raise StepKeyNeeded(
                    base, "stands twice in one parallel or first: give each a key, such as key=item.id"
                )
            seen.add(base)


def discard(branches: Iterable[object]) -> None:
    """Close coroutines that will not be run, so that Python does not warn that they never were."""
    for each in branches:
        if inspect.iscoroutine(each):
            each.close()


async def parallel(
    run: DurableRun, branches: tuple[Awaitable[Any], ...], failures: Failures
) -> tuple[Any, ...]:
    """Run all, and return their results in order. Raise the first error, by position, when the rest has ended."""
    if not branches:
        return ()
    _, tasks, join = _start(run, branches, failures)
    try:
        await _until(tasks, asyncio.FIRST_EXCEPTION if failures == "cancel" else asyncio.ALL_COMPLETED)
        losers = [task for task in tasks if not task.done()]
        if not _suspended(tasks):
            await _give_up(run, branches, tasks)
            await _stop(losers)
        elif losers:
            await asyncio.wait(losers)
    finally:
        join.release()
    _raise_suspended(tasks)
    return tuple(_results(tasks))


async def first(run: DurableRun, key: str, branches: Mapping[str, Awaitable[Any]]) -> Won[Any]:
    """Run all until one has ended. The journal keeps which one, so that it is the same one in every later run."""
    entry = await run.ask(key)
    if entry is not None:
        return await _won_before(run, _Winner.of(entry), branches, key)
    names, works = list(branches), tuple(branches.values())
    made, tasks, join = _start(run, works, "first")
    try:
        await _until(tasks, asyncio.FIRST_COMPLETED)
        if _suspended(tasks):
            await asyncio.wait(tasks)
        _raise_suspended(tasks)
        place = next(index for index, task in enumerate(tasks) if task.done())
        left = [each for branch in made[:place] + made[place + 1 :] for each in branch.keys]
        with run.running():
            won = NewEntry(
                key=key,
                kind="first",
                name=name_in(key),
                status="done",
                raw_result=_Winner(names[place], left[:MOST_LEFT]).raw(),
            )
            await asyncio.gather(run.append(won), _give_up(run, works, tasks))
        await _stop([task for task in tasks if not task.done()])
    finally:
        join.release()
    return Won(names[place], tasks[place].result())


class _Winner(NamedTuple):
    """What the journal keeps of a race: which branch won, and the calls that the others had made inside.

    Later runs leave the others out. Without `left`, the entries of their calls would count as orphans.
    """

    branch: str
    left: Sequence[str] = ()

    def raw(self) -> Raw:
        return raw_of({"branch": self.branch, "left": self.left} if self.left else self.branch)

    @classmethod
    def of(cls, entry: Entry) -> Self:
        stored: Any = entry.result
        return cls(stored["branch"], stored["left"]) if isinstance(stored, dict) else cls(str(stored))


async def _won_before(
    run: DurableRun, won: _Winner, branches: Mapping[str, Awaitable[Any]], key: str
) -> Won[Any]:
    """Run only the branch that has won in an earlier run."""
    winner = won.branch
    losers = [each for name, each in branches.items() if name != winner]
    discard(losers)
    # These are no orphans.
    for each in (*won.left, *(each.key for each in losers if isinstance(each, Operation))):
        run.journal.ask(each)
    if winner not in branches:
        raise StepFailed(key, "journal_mismatch", f"the branch {winner!r} won, and this code has none")
    _, (task,), join = _start(run, (branches[winner],), "first")
    try:
        await _until([task], asyncio.ALL_COMPLETED)
    finally:
        join.release()
    return Won(winner, task.result())


def _start(
    run: DurableRun, branches: tuple[Awaitable[Any], ...], until: Failures | Literal["first"]
) -> "tuple[list[Branch], list[asyncio.Task[Any]], _Join]":
    parent, loop = run.branches.current(), asyncio.get_running_loop()
    join = _Join(run, len(branches), until)
    group = object() if until == "wait" else None
    made: list[Branch] = []
    tasks: list[asyncio.Task[Any]] = []
    for each in branches:
        bare = isinstance(each, Operation) and each.bare
        branch = Branch(parent, group=group, bare=bare, raced=until == "first")
        made.append(branch)
        run.branches.live.add(branch)
        task = loop.create_task(_within(run, branch, each, join))
        task.add_done_callback(lambda task, branch=branch: _ended(run, branch, task))
        tasks.append(task)
    return made, tasks, join


def _ended(run: DurableRun, branch: Branch, task: "asyncio.Task[Any]") -> None:
    run.branches.live.discard(branch)
    if not task.cancelled():
        task.exception()  # of many branches one error is raised; asyncio is not to log the others as never retrieved


async def _within(run: DurableRun, branch: Branch, work: Awaitable[Any], join: "_Join") -> Any:
    with run.branches.within(branch):
        failed = True
        try:
            result = await work
            failed = False
            return result
        finally:
            join.ended(failed=failed)


class _Join:
    """A branch that waits for branches of its own: it goes on when all have ended, or at the first one (or failure).

    From that moment on it counts as running, although asyncio wakes it a tick later: or else its execution might be
    suspended in between.
    """

    def __init__(self, run: DurableRun, count: int, until: Failures | Literal["first"]) -> None:
        self._branch = run.branches.current()
        self._waits = run.waits
        self._left = count
        self._until = until
        self._holds = True
        self._branch.joining += 1

    def ended(self, *, failed: bool) -> None:
        """Note that one of the branches has ended."""
        self._left -= 1
        if not self._left or self._until == "first" or (self._until == "cancel" and failed):
            self.release()

    def release(self) -> None:
        if self._holds:
            self._holds = False
            self._branch.joining -= 1
            self._waits.changed()


async def _until(tasks: "list[asyncio.Task[Any]]", when: str) -> None:
    try:
        await asyncio.wait(tasks, return_when=when)
    except asyncio.CancelledError:
        await _stop(tasks)
        raise


async def _stop(tasks: "list[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _suspended(tasks: "list[asyncio.Task[Any]]") -> TaskSuspended | None:
    """Return what has stopped the handler, if one of these has found that."""
    # All are asked: asyncio would warn of an error that nobody has asked for.
    found = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    return next((error for error in found if isinstance(error, TaskSuspended)), None)


def _raise_suspended(tasks: "list[asyncio.Task[Any]]") -> None:
    error = _suspended(tasks)
    if error is not None:
        raise TaskSuspended(str(error))


async def _give_up(
    run: DurableRun, branches: tuple[Awaitable[Any], ...], tasks: "list[asyncio.Task[Any]]"
) -> None:
    """Journal calls that have not ended as canceled, so that no later run waits for them."""
    lost = [
        each.key
        for each, task in zip(branches, tasks, strict=True)
        if isinstance(each, Operation) and not task.done()
    ]
    await asyncio.gather(
        *(
            run.append(NewEntry(key=key, kind=key.partition(":")[0], name=name_in(key), status="canceled"))
            for key in lost
        )
    )


def _results(tasks: "list[asyncio.Task[Any]]") -> list[Any]:
    """Return all results, or raise: an error of a branch's own rather than one of a branch that was given up for it."""
    failed = [task.exception() for task in tasks if not task.cancelled() and task.exception() is not None]
    for error in failed:
        if error is not None and not isinstance(error, StepCanceled):
            raise error
    for error in failed:
        if error is not None:
            raise error
    return [task.result() for task in tasks]
