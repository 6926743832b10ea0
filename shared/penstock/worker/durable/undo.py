"""Compensations: what a handler has registered to undo, run in reverse when its execution fails or is canceled.

First a marker is journaled. From then on every run of the handler only goes as far as the journal does, to register its
compensations again, and then undoes what is left to undo. Each undo is a step, so none runs again once it is journaled.
"""

import logging
from typing import Any, Final

import msgspec

from penstock.messages.journal import Entry, EntryError, NewEntry
from penstock.worker._errors import text_of
from penstock.worker.durable.errors import StepFailed, TaskSuspended
from penstock.worker.durable.journal import COMPENSATING
from penstock.worker.durable.run import DurableRun
from penstock.worker.durable.steps import Step, run_step

log: Final = logging.getLogger("penstock.worker")

KIND: Final = "compensate"


class Undos:
    """The compensations that one run of a handler has registered, in order."""

    def __init__(self, run: DurableRun) -> None:
        self._run = run
        self._steps: list[tuple[str, Step]] = []

    def push(self, key: str, step: Step) -> None:
        """Register a compensation. `key`: of the entry that says so, which is journaled with the next one."""
        if self._run.journal.ask(key) is None and self._run.compensating is None:
            self._run.mark(key, KIND, step.name)
        self._steps.append((key, step))

    async def begin(self, category: str, reason: str) -> None:
        """Journal that the execution ends, unless an earlier run has: this run only learns what there is to undo."""
        if self._run.compensating is None:
            why = await self._mark(category, reason)
            told: dict[str, Any] = msgspec.to_builtins(why)
            marker = Entry(n=0, key=COMPENSATING, kind="compensating", status="started", error=told)
            self._run.journal.keep(marker)

    @property
    def unlearned(self) -> list[str]:
        """Names of compensations that an earlier run has registered and this one has not."""
        known = {key for key, _ in self._steps}
        return [entry.name for entry in self._run.journal.of_kind(KIND) if entry.key not in known]

    def __bool__(self) -> bool:
        return bool(self._steps)

    async def run(self, category: str, reason: str) -> EntryError:
        """Undo, the latest first. Return why the execution fails: as journaled, with what could not be undone.

        Raise `TaskSuspended` if the execution was suspended (an undo waits for its next try) or the lease is lost.
        """
        run = self._run
        run.undoing = True
        marker = run.compensating
        if marker is None:
            why = await self._mark(category, reason)
        else:
            told = marker.error or {}
            why = EntryError(category=told.get("category") or category, reason=told.get("reason") or reason)
            # Only what was registered before the failure: a run that came further by chance has done nothing there.
            self._steps = [each for each in self._steps if run.journal.look(each[0]) is not None]
        failed = [f"{name} is not known to this code" for name in self.unlearned]
        for _, step in reversed(self._steps):
            try:
                await run_step(run, step)
            except StepFailed as error:
                log.error("%s: %s could not be undone: %s", run.execution_id, step.key, error)
                failed.append(str(error))
            if run.over:
                raise TaskSuspended
        if failed:
            why.reason = text_of(f"{why.reason}; not undone: {'; '.join(failed)}")
        return why

    async def _mark(self, category: str, reason: str) -> EntryError:
        why = EntryError(category=category, reason=text_of(reason))
        await self._run.append(NewEntry(key=COMPENSATING, kind="compensating", status="started", error=why))
        return why
