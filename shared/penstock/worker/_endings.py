"""What becomes of a handler's end: the outcome that is sent for it, after its compensations if it fails for good."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

from msgspec import Raw

from penstock import errors, verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.messages.executions import ExecutionGet
from penstock.sdk.tracing import Tracing
from penstock.worker._errors import (
    Duration,
    Fail,
    PossiblySucceeded,
    Retry,
    TaskConsumedError,
    category_of,
    reason_of,
)
from penstock.worker._invoke import InvalidInput
from penstock.worker._leases import LOST, Lease
from penstock.worker._task import Task
from penstock.worker.durable.errors import TaskSuspended

log: Final = logging.getLogger("penstock.worker")

# A call that sends the outcome when awaited, or None when no outcome is to be sent.
Outcome = Coroutine[Any, Any, object] | None


class Failure(NamedTuple):
    """How an attempt has failed. `after`: the time until the next one, None for the execution's backoff."""

    reason: str
    category: str
    retryable: bool = True
    after: Duration | None = None


# How a run of a handler has ended, before its compensations: a failure, a result, or with nothing to send.
Ending = Failure | Raw | None


class Endings:
    """Turns what a handler returned or raised into its outcome."""

    def __init__(self, requester: Requester, tracing: Tracing | None) -> None:
        self._requester = requester
        self._tracing = tracing

    def returned(self, task: Task, lease: Lease, result: Any) -> Ending:
        """Return the ending of a handler that returned."""
        if task.consumed or _is_gone(task, lease):
            return None
        try:
            raw = raw_of(result)
        except Exception as error:
            return Failure(
                f"the handler's result cannot be encoded: {error}", "invalid_result", retryable=False
            )
        if undoes(task):
            return None
        return raw

    def canceled(self, task: Task, lease: Lease, error: asyncio.CancelledError) -> Failure | None:
        """Return the ending of a handler that was interrupted. Raise the error if the event loop is closing."""
        asked = lease.lost or lease.cancel_requested or lease.abandoned
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            if not asked:
                raise error  # not asked for by the lease: the event loop is closing
            current.uncancel()
        if not asked:
            return self.failed(task, lease, error)
        if task.consumed or _is_gone(task, lease) or lease.abandoned:
            return None
        return Failure("canceled on request", "canceled", retryable=False)

    def failed(self, task: Task, lease: Lease, error: BaseException) -> Failure | None:
        """Return the ending of a handler that raised."""
        if self._tracing is not None:
            self._tracing.raised(error)
        if task.consumed:
            return too_late(task, error)
        if _is_gone(task, lease):
            return None
        if lease.cancel_requested and not undoes(task):
            return Failure(reason_of(error), "canceled", retryable=False)
        if isinstance(error, Retry):
            return Failure(error.reason, category_of(error), after=error.after)
        if isinstance(error, Fail):
            return Failure(error.reason, category_of(error), retryable=False)
        if isinstance(error, InvalidInput):
            return Failure(str(error), "invalid_input", retryable=False)
        log.warning("%s %s failed", task.kind, task.execution_id, exc_info=error)
        return Failure(reason_of(error), category_of(error))

    async def undone(self, task: Task, lease: Lease, ending: Ending) -> Outcome:
        """Return the outcome to send. If the execution fails for good, or is canceled, its compensations run before."""
        durable = task.durable
        if durable is not None and not task.consumed and not durable.over and not lease.abandoned:
            marker = durable.compensating
            if isinstance(ending, Failure) and task.unlearned and (ending.retryable or marker is None):
                pass  # it ended before it came as far as its journal: another run learns what there is to undo
            elif marker is not None or (
                isinstance(ending, Failure) and task.undos and await self._is_final(task, ending)
            ):
                ending = await self._undo(task, lease, ending)
        if isinstance(ending, Failure):
            return task.fail(
                ending.reason, ending.category, retryable=ending.retryable, retry_after=ending.after
            )
        return None if ending is None else task.complete(ending)

    async def _undo(self, task: Task, lease: Lease, ending: Ending) -> Failure | None:
        told = ending if isinstance(ending, Failure) else Failure("it failed", "error")
        lease.on_stop = lease.runner.cancel if lease.runner is not None else None  # when the lease is lost
        try:
            why = await task.compensated(told.category, told.reason)
        except TaskSuspended:
            return None
        except asyncio.CancelledError:
            if not (lease.lost or lease.abandoned):
                raise
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                current.uncancel()
            return None
        except Exception as error:
            # The journal is full or cannot be reached: the next attempt goes on with it.
            return Failure(reason_of(error), category_of(error))
        finally:
            lease.on_stop = None
        return Failure(why.reason, why.category, retryable=False)

    async def _is_final(self, task: Task, failure: Failure) -> bool:
        """Return whether no attempt follows this failure, by the execution's own rules."""
        if not failure.retryable:
            return True
        try:
            record = await self._requester.call(
                verbs.EXECUTION_GET, ExecutionGet(execution_id=task.execution_id)
            )
        except errors.PenstockError:
            return False  # another attempt follows if there may be one; else the compensations are not run
        listed = record.retry_on is not None and failure.category not in record.retry_on
        return (
            listed or failure.category in (record.fail_on or ()) or task.attempt_index >= record.max_attempts
        )


def undoes(task: Task) -> bool:
    """Return whether this run only learns what there is to undo."""
    return task.durable is not None and task.durable.compensating is not None


def too_late(task: Task, error: BaseException) -> None:
    """Log an error that a handler raised after the task's outcome, because it cannot be sent any more."""
    quiet = isinstance(error, (TaskConsumedError, PossiblySucceeded, errors.PenstockError))
    log.error(
        "%s %s: raised after its outcome: %s",
        task.kind,
        task.execution_id,
        reason_of(error),
        exc_info=None if quiet else error,
    )


def _is_gone(task: Task, lease: Lease) -> bool:
    if lease.lost is None:
        return False
    log.warning("%s %s: lease lost (%s); nothing is sent", task.kind, task.execution_id, lease.lost)
    return True


async def send(task: Task, outcome: Coroutine[Any, Any, object], *, refused: bool = False) -> None:
    """Send an outcome. If it is refused while the lease holds, send a failure instead, once (`refused`)."""
    try:
        await outcome
    except PossiblySucceeded as error:
        log.error("%s %s: %s", task.kind, task.execution_id, error)
    except Exception as error:
        known = isinstance(error, errors.PenstockError)
        # Of a task whose cancellation was requested, the lease may be gone by now: that is as it should be.
        canceled = task.cancel_requested and isinstance(error, errors.PenstockError) and error.code in LOST
        log.log(
            logging.INFO if canceled else logging.WARNING,
            "%s %s: the outcome was refused: %s",
            task.kind,
            task.execution_id,
            error,
            exc_info=None if known else error,
        )
        if not task.consumed and not refused:
            # A retry cannot make an invalid request valid; any other error may pass.
            retryable = not isinstance(error, errors.InvalidError)
            failure = task.fail(reason_of(error), category_of(error), retryable=retryable)
            await send(task, failure, refused=True)
