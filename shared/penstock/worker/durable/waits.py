"""Waits: in memory while they are short or other branches run, else by suspending the execution until one has ended.

`Waits` is told of each wait, and settles once a tick: it stores the waits that are new, ends those whose time has
come, and when every branch waits for longer than `keep_warm`, it suspends the execution with all of its waits in one
step.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from penstock import errors, verbs
from penstock.messages.journal import Entry, NewEntry
from penstock.worker._errors import PossiblySucceeded
from penstock.worker._fenced import FencedCalls
from penstock.worker._leases import Lease, LeaseRenewer
from penstock.worker.durable.appender import MOST_ENTRIES, Appender, Waiting, answer, fail
from penstock.worker.durable.branches import Branch, Branches
from penstock.worker.durable.errors import JournalFull, TaskSuspended, name_in
from penstock.worker.durable.journal import ENDED, LocalJournal

INFINITY: Final = float("inf")
LOOK_S: Final = 2.0
"""How often signals and children are looked at while a step runs beside the wait for them."""
_ENDED_BY_OTHERS: Final = frozenset({"signal", "event", "child"})


class Wait:
    """One wait. `new`: its entry, until it is stored. `until`: Valkey's time at which it ends by itself."""

    __slots__ = ("branch", "ended", "key", "kind", "n", "new", "retry", "until")

    def __init__(self, key: str, branch: Branch, new: NewEntry | None, stored: Entry | None) -> None:
        self.key = key
        self.kind = key.partition(":")[0]
        self.branch = branch
        self.new = new
        self.until = None if stored is None else stored.until
        self.n = 0 if stored is None else stored.n
        # A try of a step that has failed waits here for the next one. Only the worker ends such a wait.
        self.retry = stored is not None and stored.status == "retry"
        self.ended: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()


class Waits:
    """All waits of one run of a handler."""

    def __init__(
        self,
        calls: FencedCalls,
        leases: LeaseRenewer,
        lease: Lease,
        journal: LocalJournal,
        appender: Appender,
        branches: Branches,
        about: dict[str, Any],
        keep_warm_ms: int,
    ) -> None:
        self.parked = False
        self._calls, self._lease, self._clock = calls, lease, leases.clock
        self._journal, self._appender, self._branches = journal, appender, branches
        self._about = about
        self._keep_warm_ms = keep_warm_ms
        self._waits: dict[str, Wait] = {}
        self._scheduled = False
        self._working: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, key: str, new: NewEntry | None, stored: Entry | None = None) -> Entry:
        """Wait until an entry has ended, and return it. `new` is stored first, unless it is `stored` already.

        Of an entry with status `retry`, return when its time has come.
        """
        branch = self._branches.current()
        wait = self._waits[key] = Wait(key, branch, new, stored)
        branch.waiting += 1
        self.changed()
        try:
            return await wait.ended
        finally:
            branch.waiting -= 1
            self._waits.pop(key, None)
            self.changed()

    def changed(self) -> None:
        """Note that a branch waits, or has stopped running. What follows is decided when this tick is over."""
        if not self._scheduled and self._waits and not self.parked:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._settle)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._working is not None:
            self._working.cancel()

    def _settle(self) -> None:
        self._scheduled = False
        if self._working is not None or self.parked:
            return
        waits = list(self._waits.values())
        if not waits or any(wait.ended.done() for wait in waits):
            return  # a branch goes on in this tick, and tells when it has left its wait
        now = self._clock.now()
        due = [wait for wait in waits if wait.until is not None and wait.until <= now]
        for wait in due:
            if wait.retry:
                entry = self._journal.look(wait.key)
                assert entry is not None
                wait.ended.set_result(entry)
        due = [wait for wait in due if not wait.retry and wait.new is None]
        idle = self._branches.all_idle()
        soonest = min((self._ends_at(wait, now) for wait in waits), default=None)
        if due:
            self._work(self._end(due))
        elif any(wait.ended.done() for wait in waits):
            return
        elif idle and self._fit(waits) and (soonest is None or soonest - now > self._keep_warm_ms):
            self._work(self._park(waits))
        elif any(wait.new is not None for wait in waits):
            self._work(self._store([wait for wait in waits if wait.new is not None][:MOST_ENTRIES]))
        else:
            self._look_again(waits, soonest, now)

    @staticmethod
    def _fit(waits: list[Wait]) -> bool:
        """Whether one request can suspend for all of these; or all are stored, so that a part of them will do."""
        return len(waits) <= MOST_ENTRIES or all(wait.new is None for wait in waits)

    @staticmethod
    def _ends_at(wait: Wait, now: float) -> float:
        if wait.until is not None:
            return wait.until
        if wait.new is None:
            return INFINITY
        if wait.new.until is not None:
            return wait.new.until
        return INFINITY if wait.new.delay_ms is None else now + wait.new.delay_ms

    def _look_again(self, waits: list[Wait], soonest: float | None, now: float) -> None:
        """Set the timer to the next time at which a wait ends, or may be seen to have ended."""
        in_s = INFINITY if soonest is None else max(0.0, soonest - now) / 1000 + 0.001
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(min(in_s, LOOK_S), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._working is None and not self.parked:
            asked = [
                wait for wait in self._waits.values() if wait.kind in _ENDED_BY_OTHERS and wait.new is None
            ]
            if asked:
                self._work(self._read(asked))
                return
        self.changed()

    def _work(self, work: Any) -> None:
        """Do one thing at a time; then settle again."""
        self._working = asyncio.get_running_loop().create_task(self._one(work))

    async def _one(self, work: Any) -> None:
        try:
            await work
        except errors.UnavailableError:
            pass  # it is tried again when the timer rings
        except (Exception, TaskSuspended) as error:
            for wait in list(self._waits.values()):
                if not wait.ended.done():
                    wait.ended.set_exception(error)
        finally:
            self._working = None
            self.changed()

    async def _store(self, waits: list[Wait]) -> None:
        """Append new waits, so that their times count from now, their children run and their signals are kept."""
        stored = [self._appender.add(wait.new) for wait in waits if wait.new is not None]
        for wait, future in zip(waits, stored, strict=True):
            wait.new = None
            try:
                result = await future
            except (Exception, TaskSuspended) as error:
                if not wait.ended.done():
                    wait.ended.set_exception(error)
                continue
            if result.entry is not None:
                self._learn(wait, result.entry)

    async def _end(self, due: list[Wait]) -> None:
        """End waits whose time has come. The service may have ended them before: then its entry stays."""
        appended = [
            self._appender.add(NewEntry(key=wait.key, kind=wait.kind, name=name_in(wait.key), status="done"))
            for wait in due
        ]
        for wait, future in zip(due, appended, strict=True):
            result = await future
            ended = result.entry or Entry(n=wait.n, key=wait.key, kind=wait.kind, status="done")
            self._learn(wait, ended)

    async def _read(self, waits: list[Wait]) -> None:
        """Look whether signals have come or children have ended, while a step runs beside the wait for them."""
        wanted = {wait.key: wait for wait in waits}
        cursor: str | None = str(max(min(wait.n for wait in waits) - 1, 0))
        while cursor is not None:
            page = await self._calls.call(verbs.JOURNAL_OPEN, cursor=cursor)
            for entry in page.items:
                if entry.key in wanted:
                    self._learn(wanted[entry.key], entry)
            cursor = page.cursor

    async def _park(self, waits: list[Wait]) -> None:
        """Suspend the execution until its waits have ended. What is queued for the journal goes along.

        Of more than a hundred waits, a hundred wake it: those that end soonest, after those that have no time.
        """
        now = self._clock.now()
        ends = {wait.key: self._ends_at(wait, now) for wait in waits}
        timed = sorted((wait for wait in waits if ends[wait.key] < INFINITY), key=lambda wait: ends[wait.key])
        others = [wait for wait in waits if ends[wait.key] == INFINITY]
        chosen = [*timed[: max(1, MOST_ENTRIES - len(others))], *others][:MOST_ENTRIES]
        queued = await self._appender.take(MOST_ENTRIES - sum(wait.new is not None for wait in chosen))
        entries = [wait.new for wait in chosen if wait.new is not None]
        try:
            reply = await self._calls.consume(
                verbs.LEASE_PARK,
                entries=[*(entry for entry, _ in queued), *entries],
                keys=[wait.key for wait in chosen if wait.new is None],
                mode="all" if _wait_for_all(waits) else "any",
                **self._about,
            )
        except PossiblySucceeded as error:
            self._stop(queued, TaskSuspended(str(error)))
            return
        except errors.PenstockError as error:
            if self._lease.lost is not None or self._calls.consumed:
                self._stop(queued, TaskSuspended(f"the execution could not be suspended: {error}"))
                return
            fail(queued, error)
            if error.code == "journal_full":
                raise JournalFull(chosen[0].key, error.message) from None
            raise
        if reply.outcome != "already_satisfied":
            self._stop(queued, TaskSuspended())
            return
        answer(queued, reply.results[: len(queued)])
        by_key = {wait.key: wait for wait in chosen}
        for wait in chosen:
            wait.new = None
        for result in reply.results[len(queued) :]:
            if result.entry is not None:
                self._learn(by_key[result.key], result.entry)
        for entry in reply.items:
            wait = by_key[entry.key]
            self._learn(wait, entry)
            if wait.retry and not wait.ended.done():  # its time has come, by Valkey's clock
                wait.ended.set_result(entry)

    def _stop(self, queued: Iterable[Waiting], why: TaskSuspended) -> None:
        self.parked = True
        fail(queued, why)
        for wait in list(self._waits.values()):
            if not wait.ended.done():
                wait.ended.set_exception(TaskSuspended(str(why)))

    def _learn(self, wait: Wait, entry: Entry) -> None:
        """Take over an entry as it is stored now."""
        self._journal.keep(entry)
        wait.until, wait.n = entry.until, entry.n
        if entry.status in ENDED and not wait.ended.done():
            wait.ended.set_result(entry)


def _wait_for_all(waits: list[Wait]) -> bool:
    """Whether the handler goes on only when all of these have ended: then it need not be woken for each."""
    group = waits[0].branch.group
    return (
        len(waits) > 1
        and group is not None
        and all(wait.branch.bare and wait.branch.group is group for wait in waits)
    )
