"""Runs a handler over a stored journal, without servers: what would this code do with that execution?

Steps, waits and children return their stored results. No step's function is run, and nothing is written. Where the
handler asks for something that the journal does not have, it stops.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from penstock.messages.common import Record
from penstock.messages.journal import Entry
from penstock.worker._hooks import Hooks
from penstock.worker._invoke import Handler
from penstock.worker._leases import LeaseRenewer
from penstock.worker.durable.errors import TaskSuspended
from penstock.worker.durable.offline import Ended, Offline
from penstock.worker.durable.replay_run import ReplayRun, ReplayRunner, task_message

PATIENCE_S: Final = 10.0
"""How long a handler may take: its code between the calls runs as it always does."""


class Replay(msgspec.Struct, kw_only=True):
    """What a handler makes of a stored journal. Lists are of keys.

    orphans: entries that it does not ask for. drift: steps whose function or arguments have changed. new: calls that
    the journal does not have, although it goes on behind them or the execution has ended. unreached: entries that
    were not asked for because the handler stopped before (at something new, or at a problem).
    goes_on: where an execution that has not ended goes on; that is no difference.
    outcome: in words, how the handler ends otherwise than the execution has. problem: why the replay ended early.
    skipped: why there was none, where this code would not get the execution.
    """

    execution_id: str
    kind: str
    state: str
    orphans: list[str] = []
    drift: list[str] = []
    new: list[str] = []
    unreached: list[str] = []
    goes_on: list[str] = []
    outcome: str | None = None
    problem: str | None = None
    skipped: str | None = None

    @property
    def differs(self) -> bool:
        """Whether this code does not do with the execution what the code before it did."""
        return bool(self.orphans or self.drift or self.new or self.outcome or self.problem)

    def __str__(self) -> str:
        told = [
            f"{name} {', '.join(keys)}"
            for name, keys in (
                ("new:", self.new),
                ("not asked for:", self.orphans),
                ("not reached:", self.unreached),
                ("changed:", self.drift),
            )
            if keys
        ]
        told += [text for text in (self.outcome, self.problem, self.skipped) if text]
        if not told:
            told = [f"goes on at {', '.join(self.goes_on)}" if self.goes_on else "the same"]
        return "; ".join(told)


async def replay(
    handler: Handler,
    record: Record,
    journal: Iterable[Entry],
    *,
    context: Any = None,
    hooks: Hooks | None = None,
    patience: float = PATIENCE_S,
) -> Replay:
    """Run a handler over the journal of an execution. `context`: what it finds in `task.context`."""
    offline = Offline(record)
    leases = LeaseRenewer(offline, PATIENCE_S)
    runner = ReplayRunner(offline, leases, handler, record, hooks or Hooks(), context)
    lease = leases.add(task_message(record, list(journal)))
    lease.expires = float("inf")
    found = Replay(execution_id=record.execution_id, kind=record.kind, state=record.state)
    runner.start(lease)
    assert lease.runner is not None
    running = lease.runner
    done, _ = await asyncio.wait({running}, timeout=patience)
    if not done:
        found.problem = f"the handler has come to no rest within {patience:g} s"
        lease.lose("the replay took too long")
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError, TaskSuspended):
        await running
    if offline.refused and found.problem is None:
        found.problem = (
            f"it calls {offline.refused}, which has no stored answer: make that call inside a step"
        )
    run = None if runner.made is None else runner.made.replayed
    assert run is not None, "a journal was given, so it was opened"
    _compare(found, record, run, offline.ended)
    return found


def _compare(found: Replay, record: Record, run: ReplayRun, ended: Ended | None) -> None:
    new = [key for key, is_new in run.waits.stopped.items() if is_new]
    unasked = run.journal.orphans()
    found.drift = run.journal.drift
    found.new = run.early + (new if run.journal.closed or unasked else [])
    if new or found.problem:
        found.unreached = unasked
    else:
        found.orphans = unasked
    if not (found.new or found.problem or (ended and ended.state != "suspended")):
        found.goes_on = list(run.waits.stopped) or ([] if ended is None else ["a wait that is not journaled"])
    if ended and ended.state == "failed" and unasked:  # it would have failed before it came so far
        found.outcome = f"this code {_told(ended, [])}"
    if not run.journal.closed or found.problem or (found.new and ended is None):
        return
    if not _same_end(record, ended):
        found.outcome = f"{_end_of(record)}; this code {_told(ended, list(run.waits.stopped))}"


def _same_end(record: Record, ended: Ended | None) -> bool:
    if ended is None or ended.state != record.state:
        return False
    if ended.state == "failed":
        return ended.category == (record.failure or {}).get("category")
    return ended.result == record.result


def _end_of(record: Record) -> str:
    failure = record.failure or {}
    if record.state == "failed":
        return f"it failed ({failure.get('category')})"
    return f"it completed with {_short(record.result)}"


def _told(ended: Ended | None, stopped: list[str]) -> str:
    if ended is None or ended.state == "suspended":
        return f"waits at {', '.join(stopped) or 'a wait that is not journaled'}"
    if ended.state == "failed":
        return f"fails ({ended.category}): {ended.reason}"
    return f"completes with {_short(ended.result)}" if ended.state == "completed" else "cancels it"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else text[:199] + "…"
