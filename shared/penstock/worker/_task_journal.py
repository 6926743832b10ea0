"""The durable side of a task: its journal and its compensations, for the durable calls and for the worker."""

from typing import Any

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.messages.journal import Continues, EntryError
from penstock.worker._fenced import FencedCalls
from penstock.worker._leases import Lease, LeaseRenewer
from penstock.worker.durable.calls import DurableCalls
from penstock.worker.durable.run import DurableOptions, DurableRun
from penstock.worker.durable.undo import Undos


class JournaledTask(DurableCalls):
    """A task with its journal: a stored one is read before the handler runs, a new one begins at a durable call."""

    __slots__ = ("_calls", "_durable", "_lease", "_leases", "_options", "_registered", "_requester")

    # `Task` sets these, in one place: that runs once for each execution.
    _calls: FencedCalls
    _lease: Lease
    _leases: LeaseRenewer
    _options: DurableOptions | None
    _requester: Requester
    _durable: DurableRun | None
    _registered: Undos | None

    @property
    def durable(self) -> DurableRun | None:
        """The journal of this run, once a durable call was made; for the worker itself."""
        return self._durable

    @property
    def undos(self) -> Undos | None:
        """The compensations that this run has registered; for the worker itself."""
        return self._registered

    async def open_journal(self, *, again: bool = False) -> None:
        """Read what did not come with the task: the further pages of a long journal, or all that was stored
        meanwhile.
        """
        message = self._lease.message
        if again and self._durable is not None:
            await self._durable.appender.flush()
            message.journal = await self._calls.call(verbs.JOURNAL_OPEN)
            self._durable = self._registered = None
        opened = message.journal
        while opened is not None and opened.cursor is not None:
            page = await self._calls.call(verbs.JOURNAL_OPEN, cursor=opened.cursor)
            opened.items.extend(page.items)
            opened.cursor = page.cursor
        if opened is not None:
            self._durable_run()

    @property
    def unlearned(self) -> list[str]:
        """Names of compensations that were journaled, and that this run has not registered; for the worker itself."""
        return [] if self._durable is None else self._undos().unlearned

    async def begin_undo(self, category: str, reason: str) -> None:
        """The execution ends: let this run of the handler only learn what there is to undo. See `Undos.begin`."""
        await self._undos().begin(category, reason)

    async def compensated(self, category: str, reason: str) -> EntryError:
        """Run the compensations. Return why the execution fails. Raises `TaskSuspended`; see `Undos.run`."""
        return await self._undos().run(category, reason)

    def _durable_run(self) -> DurableRun:
        if self._durable is None:
            options = self._options or DurableOptions()
            self._durable = DurableRun(self._requester, self._calls, self._leases, self._lease, options)
        return self._durable

    def _undos(self) -> Undos:
        if self._registered is None:
            self._registered = Undos(self._durable_run())
        return self._registered

    async def _continue_as(self, input: Any) -> None:
        raw = raw_of(input)
        notes = await self._durable_run().finish()
        await self._calls.consume(verbs.LEASE_COMPLETE, continues=Continues(raw_input=raw), journal=notes)
