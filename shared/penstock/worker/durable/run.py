"""The durable side of one attempt: its journal, its branches, its waits. Made at the first durable call of a
handler.
"""

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Final

from penstock import verbs
from penstock.bus.requester import Requester
from penstock.messages.common import NULL
from penstock.messages.journal import Appended, Entry, Hold, JournalNotes, NewEntry
from penstock.worker._fenced import FencedCalls
from penstock.worker._leases import Lease, LeaseRenewer
from penstock.worker.durable.appender import Appender
from penstock.worker.durable.branches import Branches, step_around
from penstock.worker.durable.errors import NestedStep, TaskSuspended
from penstock.worker.durable.identity import Names
from penstock.worker.durable.journal import COMPENSATING, ENDED, LocalJournal
from penstock.worker.durable.losers import Cuts
from penstock.worker.durable.state import State
from penstock.worker.durable.waits import Waits

KEEP_WARM_S: Final = 2.0


class StepThreads:
    """The threads of sync steps. Never those of sync handlers: these wait for their steps, and would block them.

    Copies of a worker (`Worker.at`) share them, so they stay until the last of these has stopped.
    """

    def __init__(self, most: int) -> None:
        self.busy: set[object] = set()
        """One item for each step that runs in a thread now, and so cannot be interrupted."""
        self._most = most
        self._users = 0
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, call: Callable[[], Any]) -> Any:
        """Run a function in a thread that sees this context's variables."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="penstock-step")
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, lambda: context.run(self._run, call)
        )

    def open(self) -> None:
        """Note that a worker begins to use the threads."""
        self._users += 1

    def close(self) -> None:
        """Note that a worker has stopped. After the last one idle threads end, and what has not begun never does."""
        self._users -= 1
        if self._users > 0:
            return
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, call: Callable[[], Any]) -> Any:
        mark = object()
        self.busy.add(mark)
        try:
            return call()
        except StopIteration as error:  # a future cannot hold it; coroutines convert it the same way
            raise RuntimeError("the step raised StopIteration") from error
        finally:
            self.busy.discard(mark)


class DurableOptions:
    """What a handler's registration and its worker say about durable calls.

    keep_warm: seconds up to which waits are spent in memory, with the lease. digests: whether digests of arguments are
    stored; with a codec they are not, for a digest tells something about what the codec hides.
    """

    __slots__ = ("accepts", "digests", "keep_warm", "on_step", "threads", "version")

    def __init__(
        self,
        version: str | None = None,
        accepts: tuple[str, ...] = (),
        keep_warm: float = KEEP_WARM_S,
        digests: bool = True,
        threads: StepThreads | None = None,
    ) -> None:
        self.version = version
        self.accepts = accepts
        self.keep_warm = keep_warm
        self.digests = digests
        self.threads = threads or StepThreads(1)
        self.on_step: Callable[[str, str], object] | None = None
        """Called with execution id and key when a step's function begins; for `penstock.testing`."""

    @property
    def about(self) -> dict[str, Any]:
        """What each request that may write first says: which version begins the journal."""
        pin = {"pin": True} if self.accepts else {}
        return {} if self.version is None else {"version": self.version, **pin}


class DurableRun:
    """One run of a handler over its journal."""

    waits_type: type[Waits] = Waits

    def __init__(
        self,
        requester: Requester,
        calls: FencedCalls,
        leases: LeaseRenewer,
        lease: Lease,
        options: DurableOptions,
    ) -> None:
        opened = lease.message.journal
        self.options = options
        self.execution_id = lease.message.execution_id
        self.lease = lease
        self.journal = LocalJournal(opened, options.version)
        self.appender = Appender(requester, calls, lease, options.about)
        self.branches = Branches()
        self.names = Names()
        self.state = State(self.appender, self.journal, self.branches)
        self.cuts = Cuts(self.journal.of_kind(Cuts.KIND))
        self.journal.pass_over(self.cuts.passed_over)
        self.waits = self.waits_type(
            calls,
            leases,
            lease,
            self.journal,
            self.appender,
            self.branches,
            options.about,
            round(options.keep_warm * 1000),
        )
        self.undoing = False
        """Whether the compensations run now: then no other durable call may."""
        self._calls = calls
        self._leases = leases
        self.branches.root.task = lease.runner

    @property
    def compensating(self) -> Entry | None:
        """The entry that says that this execution fails and undoes what it did, if an earlier run has begun that."""
        return self.journal.look(COMPENSATING)

    @property
    def over(self) -> bool:
        """Whether this run of the handler has nothing to say any more: suspended, or its lease lost."""
        return self.waits.parked or self.lease.lost is not None

    @property
    def left(self) -> bool:
        """Whether `TaskSuspended` has a reason: the run is over, or it has learned what to undo."""
        return self.over or self.compensating is not None

    def key(self, call: str, kind: str, name: str, key: object = None) -> str:
        """Return the journal key of a call that is made now. Refuse what cannot work, before anything runs."""
        self.check(call)
        caller = self.branches.caller()
        made = self.names.take(kind, name, key, caller)
        caller.branch.note(made)
        return made

    def check(self, call: str) -> None:
        """Raise `NestedStep` if a durable call is made inside a step."""
        inside = step_around()
        if inside is not None:
            raise NestedStep(call, inside)

    async def ask(self, key: str, *, undo: bool = False) -> Entry | None:
        """Return the entry of a call, or None if it is new. Raise `TaskSuspended` if the handler ends here.

        Raise `CancelledError` where an earlier run has given up the branch that makes the call: it begins nothing more.
        """
        if self.over:
            raise TaskSuspended
        entry = self.journal.ask(key)
        if self.cuts and not undo and self.cuts.include(self.branches.current(), key):
            if entry is None or entry.status not in ENDED or entry.status == "canceled":
                raise asyncio.CancelledError(f"{key}: another branch had failed")
            return entry
        # An earlier run has failed: the handler runs only as far as its journal, to learn what has to be undone.
        ends_here = not undo and (self.undoing or self.compensating is not None)
        if ends_here and (entry is None or entry.status not in ENDED):
            raise TaskSuspended("the execution undoes what it did")
        return entry

    async def append(self, entry: NewEntry) -> Appended:
        """Store an entry, and keep what is stored."""
        result = await self.appender.add(entry)
        if result.entry is not None:
            self.journal.keep(result.entry)
        return result

    def waiting(self, key: str, kind: str, status: Any, attempt: int, delay_ms: int) -> Entry:
        """Keep and return an entry that was stored now with this delay: the service answers its time for waits only."""
        until = round(self._leases.clock.now()) + delay_ms
        entry = Entry(n=0, key=key, kind=kind, status=status, attempt=attempt, until=until)
        self.journal.keep(entry)
        return entry

    @contextmanager
    def running(self) -> Generator[None]:
        """Mark the current branch as busy, so that the execution is not suspended under it."""
        branch = self.branches.current()
        branch.running += 1
        try:
            yield
        finally:
            branch.running -= 1
            self.waits.changed()

    async def hold(self, code: str, key: str, message: str) -> None:
        """Suspend the execution until an operator has looked. Raise `TaskSuspended`."""
        await self.appender.flush()
        hold = Hold(code=code, key=key, message=message[:4096])
        await self._calls.consume(verbs.LEASE_PARK, hold=hold, **self.options.about)
        self.waits.parked = True
        raise TaskSuspended(message)

    async def finish(self) -> JournalNotes | None:
        """Store what is queued. Return what the end of the execution tells about its journal, if anything."""
        await self.appender.flush()
        orphans, drift = self.journal.orphans(), self.journal.drift
        return JournalNotes(orphans=orphans, drift=drift) if orphans or drift else None

    def mark(self, key: str, kind: str, name: str) -> None:
        """Queue an entry that says only that the handler came here. It is stored with the next one, or by itself."""
        self.appender.add(NewEntry(key=key, kind=kind, name=name, status="done", raw_result=NULL))

    def close(self) -> None:
        self.waits.close()


class InRun:
    """What a handler makes durable calls with: it belongs to a run."""

    __slots__ = ()

    def _durable_run(self) -> DurableRun:
        raise NotImplementedError
