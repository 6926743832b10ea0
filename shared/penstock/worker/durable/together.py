"""Branches of a handler that run side by side, and `task.parallel`. `task.first` is in race.py."""

import asyncio
import inspect
import itertools
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Literal, TypeVar

from penstock.messages.journal import NewEntry
from penstock.worker.durable.branches import Branch, Until
from penstock.worker.durable.errors import (
    StepCanceled,
    StepKeyNeeded,
    TaskSuspended,
    name_in,
)
from penstock.worker.durable.losers import Cut, Left, open_calls
from penstock.worker.durable.operation import Operation
from penstock.worker.durable.run import DurableRun

T = TypeVar("T")

Failures = Literal["wait", "cancel"]


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
    made, tasks, join = start(run, branches, failures)
    try:
        if failures == "cancel":
            failed = await _until_one_fails(made, tasks)
            if failed is not None and not suspended(tasks):
                await _cut(run, branches, made, tasks, failed)
                raise_suspended(tasks)
                tasks[failed].result()  # raises its failure
        await until_ended(tasks, asyncio.ALL_COMPLETED)
    finally:
        join.release()
    raise_suspended(tasks)
    return tuple(_results(branches, made, tasks))


async def _until_one_fails(made: Sequence[Branch], tasks: "list[asyncio.Task[Any]]") -> int | None:
    """Return the place of the first branch that fails by itself, or None when all have ended without.

    A branch that an earlier run has given up may fail as it did then, or because it was: that does not count.
    """
    while True:
        for place, (branch, task) in enumerate(zip(made, tasks, strict=True)):
            if not branch.lost and _failed(task):
                return place
        pending = [task for task in tasks if not task.done()]
        if not pending:
            return None
        await until_ended(tasks, asyncio.FIRST_EXCEPTION, among=pending)


def _failed(task: "asyncio.Task[Any]") -> bool:
    if not task.done() or task.cancelled():
        return False
    error = task.exception()
    return error is not None and not isinstance(error, StepCanceled)


async def _cut(
    run: DurableRun,
    branches: Sequence[Awaitable[Any]],
    made: list[Branch],
    tasks: "list[asyncio.Task[Any]]",
    failed: int,
) -> None:
    """Give up all branches that have not ended well, because one has failed; in every later run too."""
    depth = made[failed].depth
    keys = [
        [each.key] if isinstance(each, Operation) else branch.keys
        for each, branch in zip(branches, made, strict=True)
    ]
    with run.running():
        before = run.cuts.find(depth, itertools.chain(*keys))
        if before is not None:
            await _cut_again(run, before, made, tasks)
            return
        waits = unended(branches, tasks)
        lost = [place for place, task in enumerate(tasks) if place != failed and not _ended_well(task)]
        losers = [made[place] for place in lost]
        # They stop first: else they might make further calls while that is being stored.
        await stop([task for task in tasks if not task.done()])
        for branch in losers:
            branch.lost = True
        left = Left.of(run.state, losers, itertools.chain(*(keys[place][:1] for place in lost)))
        if not lost and all(isinstance(each, Operation) for each in branches):
            return  # they end together in later runs too
        unasked = run.journal.orphans()
        cut = Cut(depth, left, lost, next(iter(keys[failed]), None), unasked).entry()
        if cut is not None:
            await give_up(run, waits + open_calls(run.journal, losers), cut)
            run.journal.pass_over(unasked)


async def _cut_again(run: DurableRun, cut: Cut, made: list[Branch], tasks: "list[asyncio.Task[Any]]") -> None:
    """Give up the branches that an earlier run has given up, when all others have ended as they did then."""
    for branch in made:
        branch.lost = True  # until they have ended, none begins anything
    others = [task for place, task in enumerate(tasks) if place not in cut.lost]
    await until_ended(tasks, asyncio.ALL_COMPLETED, among=others)
    await stop([task for task in tasks if not task.done()])
    for place, branch in enumerate(made):
        branch.lost = place in cut.lost
    run.state.skip(cut.left.state)


def _ended_well(task: "asyncio.Task[Any]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def start(
    run: DurableRun, branches: tuple[Awaitable[Any], ...], until: Until
) -> "tuple[list[Branch], list[asyncio.Task[Any]], _Join]":
    parent, loop = run.branches.current(), asyncio.get_running_loop()
    join = _Join(run, len(branches), until)
    group = object() if until == "wait" else None
    made: list[Branch] = []
    tasks: list[asyncio.Task[Any]] = []
    for each in branches:
        bare = isinstance(each, Operation) and each.bare
        branch = Branch(parent, group=group, bare=bare, until=until)
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
        failed = False
        try:
            return await work
        except (asyncio.CancelledError, StepCanceled):  # it was given up
            raise
        except BaseException:
            failed = not branch.lost
            raise
        finally:
            join.ended(failed=failed)


class _Join:
    """A branch that waits for branches of its own: it goes on when all have ended, or at the first one (or failure).

    From that moment on it counts as running, although asyncio wakes it a tick later: or else its execution might be
    suspended in between.
    """

    def __init__(self, run: DurableRun, count: int, until: Until) -> None:
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


async def until_ended(
    tasks: "list[asyncio.Task[Any]]", when: str, among: "list[asyncio.Task[Any]] | None" = None
) -> None:
    try:
        await asyncio.wait(among or tasks, return_when=when)
    except asyncio.CancelledError:
        await stop(tasks)
        raise


async def stop(tasks: "list[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    suspended(tasks)  # their errors are heard: they are nobody's any more


def suspended(tasks: "list[asyncio.Task[Any]]") -> TaskSuspended | None:
    """Return what has stopped the handler, if one of these has found that."""
    # All are asked: asyncio would warn of an error that nobody has asked for.
    found = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    return next((error for error in found if isinstance(error, TaskSuspended)), None)


def raise_suspended(tasks: "list[asyncio.Task[Any]]") -> None:
    error = suspended(tasks)
    if error is not None:
        raise TaskSuspended(str(error))


def unended(branches: Sequence[Awaitable[Any]], tasks: "list[asyncio.Task[Any]]") -> list[str]:
    """Return the keys of branches that are one call each, and have not ended."""
    return [
        each.key
        for each, task in zip(branches, tasks, strict=True)
        if isinstance(each, Operation) and not task.done()
    ]


async def give_up(run: DurableRun, keys: Iterable[str], why: NewEntry) -> None:
    """Journal why branches are given up, and with it their calls that have not ended as canceled, so that nothing waits
    for them any more.
    """
    canceled: list[NewEntry] = []
    for key in keys:
        stored = run.journal.look(key)
        attempt = 1 if stored is None else stored.attempt
        kind, name = key.partition(":")[0], name_in(key)
        canceled.append(NewEntry(key=key, kind=kind, name=name, status="canceled", attempt=attempt))
    await asyncio.gather(*(run.append(entry) for entry in (why, *canceled)))


def _results(
    branches: Sequence[Awaitable[Any]], made: Sequence[Branch], tasks: "list[asyncio.Task[Any]]"
) -> list[Any]:
    """Return all results, or raise: an error of a branch's own rather than one of a branch that was given up."""
    for task in tasks:
        if _failed(task):
            task.result()
    for each, branch, task in zip(branches, made, tasks, strict=True):
        if task.cancelled() and branch.lost:  # by an earlier run, for a failure that this code does not have
            raise StepCanceled(each.key if isinstance(each, Operation) else branch.keys[0])
    return [task.result() for task in tasks]
