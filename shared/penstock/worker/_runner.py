"""Runs handlers, each in a slot, and turns what a handler returns or raises into an outcome."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Final, NamedTuple

from penstock import errors, verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.codecs import CodecError, UnknownCodec
from penstock.codecs._coding import is_coded
from penstock.messages.common import readable
from penstock.messages.executions import ExecutionGet
from penstock.messages.leases import TaskMessage
from penstock.messages.signals import Suspended
from penstock.sdk.requester import Extras
from penstock.worker._errors import (
    Duration,
    Fail,
    PossiblySucceeded,
    Retry,
    Suspend,
    TaskConsumedError,
    category_of,
    reason_of,
)
from penstock.worker._hooks import Hooks
from penstock.worker._invoke import Handler, InvalidInput
from penstock.worker._leases import LOST, Lease, LeaseRenewer
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


# How a run of a handler has ended, before its compensations: a failure is not sent yet.
Ending = Failure | Outcome


class Runner:
    """Runs at most `concurrency` handlers at a time.

    A slot is free as soon as its handler has ended: the outcome is delivered while the next handler runs.
    """

    def __init__(
        self,
        requester: Requester,
        leases: LeaseRenewer,
        handlers: dict[str, Handler],
        concurrency: int,
        on_free_slot: Callable[[], None],
        hooks: Hooks,
        context: Any,
        extras: Extras,
    ) -> None:
        self.active = 0
        self._coding, self._tracing = extras
        self._hooks = hooks
        self._context = context
        self._requester = requester
        self._leases = leases
        self._handlers = handlers
        self._concurrency = concurrency
        self._on_free_slot = on_free_slot
        self._threads: ThreadPoolExecutor | None = None
        self.running: set[asyncio.Task[None]] = set()
        # Lease ids of the handlers that run in a thread and so cannot be interrupted.
        self.in_threads: set[str] = set()

    def start(self, lease: Lease) -> None:
        """Start a task's handler, which takes a slot at once."""
        self.active += 1
        lease.began = round(self._leases.clock.now())
        run = self._run if self._tracing is None else self._run_traced
        lease.runner = asyncio.get_running_loop().create_task(run(lease))
        self.running.add(lease.runner)

    def task(self, lease: Lease) -> Task:
        """Return the task of a lease without starting its handler."""
        handler = self._handlers.get(lease.message.kind)
        options = None if handler is None else handler.options
        return Task(self._requester, self._leases, lease, self._context, options)

    def close(self) -> None:
        """Abandon all leases and cancel all handlers. No outcome is sent after this."""
        for lease in list(self._leases.held.values()):
            lease.abandon()
        for task in list(self.running):
            task.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, lease: Lease) -> None:
        task = self.task(lease)
        try:
            try:
                outcome = await self._handle(task, lease)
            finally:
                lease.on_stop = None
                if task.durable is not None:
                    task.durable.close()
                self.active -= 1
                self._on_free_slot()
            if outcome is not None:
                await self._send(task, outcome)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s %s: could not be brought to its end", task.kind, task.execution_id)
        finally:
            self._leases.drop(lease)
            if lease.runner is not None:
                self.running.discard(lease.runner)
            self._on_free_slot()  # where too many outcomes were on their way, there may be room again

    async def _run_traced(self, lease: Lease) -> None:
        """Run a task inside a span of its own."""
        assert self._tracing is not None
        with self._tracing.attempt(lease.message):
            await self._run(lease)
            if lease.lost is not None:
                self._tracing.lost(lease.lost)

    async def _tell(
        self, callback: Callable[[Suspended], Awaitable[object] | object], reply: Suspended, task: Task
    ) -> None:
        """Call the handler's `on_suspended`. If it fails, the error is logged and the suspension stands."""
        try:
            told = callback(reply)
            if inspect.isawaitable(told):
                await told
        except Exception:
            log.exception("%s %s: on_suspended failed", task.kind, task.execution_id)

    async def _handle(self, task: Task, lease: Lease) -> Outcome:
        """Run the handler and return its outcome. Run it again if it suspends and its signals are already there."""
        handler = self._handlers.get(task.kind)
        if handler is None:
            log.error("no handler for kind %r, which lane %r holds", task.kind, task.lane)
            reason = f"this worker has no handler for kind {task.kind!r} (lane {task.lane!r})"
            return task.fail(reason, "no_handler")
        try:
            await self._decode(lease)
            if lease.message.journal is not None:
                await task.open_journal()
            if (ending := lease.message.ending) is not None:
                await task.begin_undo(ending.category, ending.reason)
        except (CodecError, errors.PenstockError) as error:
            return await self._undone(task, lease, self._failed(task, lease, error))
        while True:
            try:
                result = await self._call(handler, task, lease)
            except asyncio.CancelledError as error:
                return await self._undone(task, lease, self._cancelled(task, lease, error))
            except Suspend as wait:
                if task.consumed:
                    return self._too_late(task, wait)
                try:
                    reply = await task.suspend(
                        wait.condition,
                        reason_code=wait.reason_code,
                        timeout=wait.timeout,
                        timeout_behavior=wait.timeout_behavior,
                        waitpoint=wait.waitpoint,
                    )
                    if reply.outcome == "already_satisfied":
                        await task.open_journal(again=True)
                except Exception as error:
                    return await self._undone(task, lease, self._failed(task, lease, error))
                if reply.outcome == "suspended" and wait.on_suspended is not None:
                    await self._tell(wait.on_suspended, reply, task)
                if reply.outcome != "already_satisfied":
                    return None
            except (
                Exception,
                SystemExit,
            ) as error:  # exit() ends this attempt, not the whole worker
                return await self._undone(task, lease, self._failed(task, lease, error))
            except BaseException:
                # TaskSuspended, or a group of it from a TaskGroup. It may also end a run that only learns what to undo.
                if task.durable is None or not (task.durable.left or task.consumed):
                    raise
                return await self._undone(task, lease, None)
            else:
                return await self._undone(task, lease, self._returned(task, lease, result))

    async def _decode(self, lease: Lease) -> None:
        """Decode a task's input. If that fails, the attempt fails, as with an error of the handler."""
        if self._coding is not None:
            await self._coding.decode(lease.message, TaskMessage)
            readable(lease.message, "raw_input")
        elif is_coded(lease.message.raw_input):
            raise UnknownCodec("the input was made by a codec, and this worker has none (codec=)")

    async def _call(self, handler: Handler, task: Task, lease: Lease) -> Any:
        if lease.lost or (lease.cancel_requested and not self._undoes(task)):
            raise asyncio.CancelledError
        if handler.is_async and lease.runner is not None:
            lease.on_stop = lease.runner.cancel
        try:
            if not self._hooks.middleware:
                return await self._invoke(handler, task)
            return await self._hooks.call(task, partial(self._invoke, handler))
        finally:
            lease.on_stop = None

    def _invoke(self, handler: Handler, task: Task) -> Awaitable[Any]:
        if handler.is_async:
            return handler.call(task)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="penstock-handler")
        call = partial(self._call_in_thread, handler, task)
        if self._tracing is not None:  # the thread sees the attempt's span
            call = partial(copy_context().run, call)
        return asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _call_in_thread(self, handler: Handler, task: Task) -> Any:
        self.in_threads.add(task.lease_id)
        try:
            return handler.call(task)
        except StopIteration as error:  # a future cannot hold it; coroutines convert it the same way
            raise RuntimeError("the handler raised StopIteration") from error
        finally:
            self.in_threads.discard(task.lease_id)

    async def _undone(self, task: Task, lease: Lease, ending: "Ending") -> Outcome:
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
        return ending

    async def _undo(self, task: Task, lease: Lease, ending: "Ending") -> "Failure | None":
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
        except (
            Exception
        ) as error:  # the journal is full or cannot be reached: the next attempt goes on with it
            return Failure(reason_of(error), category_of(error))
        finally:
            lease.on_stop = None
        return Failure(why.reason, why.category, retryable=False)

    async def _is_final(self, task: Task, failure: "Failure") -> bool:
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

    def _returned(self, task: Task, lease: Lease, result: Any) -> "Ending":
        if task.consumed or self._is_gone(task, lease):
            return None
        try:
            raw = raw_of(result)
        except Exception as error:
            return Failure(
                f"the handler's result cannot be encoded: {error}", "invalid_result", retryable=False
            )
        if self._undoes(task):
            return None
        return task.complete(raw)

    def _cancelled(self, task: Task, lease: Lease, error: asyncio.CancelledError) -> "Failure | None":
        asked = lease.lost or lease.cancel_requested or lease.abandoned
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            if not asked:
                raise error  # not asked for by the lease: the event loop is closing
            current.uncancel()
        if not asked:
            return self._failed(task, lease, error)
        if task.consumed or self._is_gone(task, lease) or lease.abandoned:
            return None
        return Failure("canceled on request", "canceled", retryable=False)

    def _failed(self, task: Task, lease: Lease, error: BaseException) -> "Failure | None":
        if self._tracing is not None:
            self._tracing.raised(error)
        if task.consumed:
            return self._too_late(task, error)
        if self._is_gone(task, lease):
            return None
        if lease.cancel_requested and not self._undoes(task):
            return Failure(reason_of(error), "canceled", retryable=False)
        if isinstance(error, Retry):
            return Failure(error.reason, category_of(error), after=error.after)
        if isinstance(error, Fail):
            return Failure(error.reason, category_of(error), retryable=False)
        if isinstance(error, InvalidInput):
            return Failure(str(error), "invalid_input", retryable=False)
        log.warning("%s %s failed", task.kind, task.execution_id, exc_info=error)
        return Failure(reason_of(error), category_of(error))

    @staticmethod
    def _undoes(task: Task) -> bool:
        """Return whether this run only learns what there is to undo."""
        return task.durable is not None and task.durable.compensating is not None

    @staticmethod
    def _too_late(task: Task, error: BaseException) -> None:
        """Log an error that a handler raised after the task's outcome, because it cannot be sent any more."""
        quiet = isinstance(error, (TaskConsumedError, PossiblySucceeded, errors.PenstockError))
        log.error(
            "%s %s: raised after its outcome: %s",
            task.kind,
            task.execution_id,
            reason_of(error),
            exc_info=None if quiet else error,
        )

    @staticmethod
    def _is_gone(task: Task, lease: Lease) -> bool:
        if lease.lost is None:
            return False
        log.warning("%s %s: lease lost (%s); nothing is sent", task.kind, task.execution_id, lease.lost)
        return True

    @staticmethod
    async def _send(task: Task, outcome: Coroutine[Any, Any, object], *, refused: bool = False) -> None:
        """Send an outcome. If it is refused while the lease holds, send a failure instead, once (`refused`)."""
        try:
            await outcome
        except PossiblySucceeded as error:
            log.error("%s %s: %s", task.kind, task.execution_id, error)
        except Exception as error:
            known = isinstance(error, errors.PenstockError)
            # Of a task whose cancellation was requested, the lease may be gone by now: that is as it should be.
            canceled = (
                task.cancel_requested and isinstance(error, errors.PenstockError) and error.code in LOST
            )
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
                await Runner._send(task, failure, refused=True)
