"""Runs handlers, each in a slot. What becomes of their ends: `_endings.py`."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from msgspec import Raw

from penstock import errors
from penstock.bus.requester import Requester
from penstock.codecs import CodecError, UnknownCodec
from penstock.codecs._coding import is_coded
from penstock.messages.common import readable
from penstock.messages.leases import TaskMessage
from penstock.messages.signals import Suspended
from penstock.sdk.requester import Extras
from penstock.worker._endings import Endings, Outcome, send, too_late, undoes
from penstock.worker._errors import Suspend
from penstock.worker._hooks import Hooks
from penstock.worker._invoke import Handler
from penstock.worker._leases import Lease, LeaseRenewer
from penstock.worker._task import Task

log: Final = logging.getLogger("penstock.worker")


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
        self._endings = Endings(requester, self._tracing)
        self._hooks = hooks
        self._context = context
        self._requester = requester
        self._leases = leases
        self._handlers = handlers
        self._concurrency = concurrency
        self._on_free_slot = on_free_slot
        self._threads: ThreadPoolExecutor | None = None
        self.running: set[asyncio.Future[Any]] = set()
        """The tasks and answers that bring an attempt to its end."""
        # Lease ids of the handlers that run in a thread and so cannot be interrupted.
        self.in_threads: set[str] = set()

    def start(self, lease: Lease) -> None:
        """Start a task's handler, which takes a slot at once."""
        self.active += 1
        lease.began = round(self._leases.clock.now())
        run = self._run if self._tracing is None else self._run_traced
        lease.runner = self._requester.loop.create_task(run(lease))
        self.running.add(lease.runner)

    def task(self, lease: Lease) -> Task:
        """Return the task of a lease without starting its handler."""
        handler = self._handlers.get(lease.message.kind)
        options = None if handler is None else handler.options
        return Task(self._requester, self._leases, lease, self._context, options)

    async def finished(self) -> None:
        """Wait until every attempt has come to its end."""
        while self.running:
            await asyncio.wait(self.running)

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
        delivering = False
        try:
            try:
                outcome = await self._handle(task, lease)
            finally:
                lease.on_stop = None
                if task.durable is not None:
                    task.durable.close()
                self.active -= 1
                self._on_free_slot()
            if isinstance(outcome, Raw) and self._tracing is None:
                self._complete(task, lease, outcome)
                delivering = True
            elif isinstance(outcome, Raw):
                await send(task, task.complete(outcome))  # the attempt's span lasts until the answer
            elif outcome is not None:
                await send(task, outcome)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s %s: could not be brought to its end", task.kind, task.execution_id)
        finally:
            if lease.runner is not None:
                self.running.discard(lease.runner)
            if not delivering:
                self._ended(lease)

    def _ended(self, lease: Lease) -> None:
        self._leases.drop(lease)
        self._on_free_slot()  # where too many outcomes were on their way, there may be room again

    def _complete(self, task: Task, lease: Lease, result: Raw) -> None:
        """Send the outcome of a handler that has returned. No coroutine waits for the answer, only a callback: every
        task has such an outcome, and nearly all are simply accepted.
        """
        sent = task.post_completion(result)
        self.running.add(sent)
        sent.add_done_callback(partial(self._answered, task, lease, result))

    def _answered(self, task: Task, lease: Lease, result: Raw, sent: "asyncio.Future[Any]") -> None:
        self.running.discard(sent)
        if sent.cancelled() or (error := sent.exception()) is None:
            self._ended(lease)
        else:
            # An error came instead of an answer: bring the completion to its end.
            mending = self._requester.loop.create_task(send(task, task.complete_posted(error, result)))
            self.running.add(mending)
            mending.add_done_callback(partial(self._mended, lease))

    def _mended(self, lease: Lease, mending: "asyncio.Future[Any]") -> None:
        # In this order: who is told that there may be room counts what is on its way, and is told once.
        self.running.discard(mending)
        self._ended(lease)

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

    async def _handle(self, task: Task, lease: Lease) -> Outcome | Raw:
        """Run the handler and return its outcome. Run it again if it suspends and its signals are already there."""
        handler = self._handlers.get(task.kind)
        if handler is None:
            log.error("no handler for kind %r, which lane %r holds", task.kind, task.lane)
            reason = f"this worker has no handler for kind {task.kind!r} (lane {task.lane!r})"
            return task.fail(reason, "no_handler")
        try:
            if self._coding is not None or is_coded(lease.message.raw_input):
                await self._decode(lease)
            if lease.message.journal is not None:
                await task.open_journal()
            if (ending := lease.message.ending) is not None:
                await task.begin_undo(ending.category, ending.reason)
        except (CodecError, errors.PenstockError) as error:
            return await self._endings.undone(task, lease, self._endings.failed(task, lease, error))
        while True:
            try:
                result = await self._call(handler, task, lease)
            except asyncio.CancelledError as error:
                return await self._endings.undone(task, lease, self._endings.canceled(task, lease, error))
            except Suspend as wait:
                if task.consumed:
                    return too_late(task, wait)
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
                    return await self._endings.undone(task, lease, self._endings.failed(task, lease, error))
                if reply.outcome == "suspended" and wait.on_suspended is not None:
                    await self._tell(wait.on_suspended, reply, task)
                if reply.outcome != "already_satisfied":
                    return None
            except (
                Exception,
                SystemExit,
            ) as error:  # exit() ends this attempt, not the whole worker
                return await self._endings.undone(task, lease, self._endings.failed(task, lease, error))
            except BaseException:
                # TaskSuspended, or a group of it from a TaskGroup. It may also end a run that only learns what to undo.
                if task.durable is None or not (task.durable.left or task.consumed):
                    raise
                return await self._endings.undone(task, lease, None)
            else:
                ending = self._endings.returned(task, lease, result)
                if task.durable is None and (ending is None or isinstance(ending, Raw)):
                    return ending
                return await self._endings.undone(task, lease, ending)

    async def _decode(self, lease: Lease) -> None:
        """Decode a task's input, which a codec has made or will be asked about. If that fails, the attempt fails."""
        if self._coding is not None:
            await self._coding.decode(lease.message, TaskMessage)
            readable(lease.message, "raw_input")
        else:
            raise UnknownCodec("the input was made by a codec, and this worker has none (codec=)")

    async def _call(self, handler: Handler, task: Task, lease: Lease) -> Any:
        if lease.lost or (lease.cancel_requested and not undoes(task)):
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
