"""`Task`: the attempt as a handler sees it, and the calls that a handler can make.

What it can read is in `_task_data.py`, and what belongs to its journal in `_task_journal.py`.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, TypeVar

from msgspec import Raw

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.ids import uuid7
from penstock.messages.common import NULL
from penstock.messages.executions import ExecutionCreate
from penstock.messages.frames import FrameStored
from penstock.messages.leases import Completed, Failed
from penstock.messages.limits import Usage
from penstock.messages.signals import Suspended, WaitpointCreated
from penstock.worker import _usage as usage
from penstock.worker._children import Child, spec_of
from penstock.worker._errors import ConditionLike, Duration, TimeoutBehavior, milliseconds, text_of
from penstock.worker._fenced import FencedCalls
from penstock.worker._frames import FrameSender
from penstock.worker._leases import Lease, LeaseRenewer
from penstock.worker._signals import Signal, condition_of
from penstock.worker._task_data import TaskData
from penstock.worker._task_journal import JournaledTask
from penstock.worker.durable.run import DurableOptions

T = TypeVar("T")


class Task(TaskData, JournaledTask):
    """One attempt at one execution.

    `complete`, `fail`, `cancel`, `suspend`, `delay`, `await_children` and `release` consume the task. Calling
    another one after that raises `TaskConsumedError` before anything is sent. When the handler returns, a task
    that is not consumed is completed. The durable calls (`step`, `sleep` …) are in `DurableCalls`.
    """

    __slots__ = ("_frames", "_resumed", "_signals", "context")

    def __init__(
        self,
        requester: Requester,
        leases: LeaseRenewer,
        lease: Lease,
        context: Any = None,
        options: DurableOptions | None = None,
    ) -> None:
        self.context = context
        """The value that the worker's lifespan yielded."""
        self._frames: FrameSender | None = None
        self._requester = requester
        self._leases = leases
        self._lease = lease
        self._calls = FencedCalls(requester, leases, lease)
        self._resumed = lease.message.resumed
        self._signals: list[Signal] | None = None
        self._options = options
        # Made at the first durable call: a handler that makes none pays nothing for them.
        self._durable = None
        self._registered = None

    async def renew(self) -> None:
        """Renew the lease now (the worker also renews it regularly). Raises the lease-keeper's typed error."""
        await self._leases.renew(self._lease)

    # Outcomes, which consume the task.

    async def complete(self, result: Any = None, *, children: Iterable[Child] = ()) -> str:
        """Complete the execution with a result that msgspec can encode. Return the execution's state.

        `children` are created in the same atomic step, each given as `(kind, input)` or as the fields of
        `execution.create`. Raises `TypeError` if the result or a child cannot be encoded: then the task is
        not consumed.
        """
        raw, specs = raw_of(result), list(map(spec_of, children))
        notes = None if self._durable is None else await self._durable.finish()
        reply = await self._calls.consume(verbs.LEASE_COMPLETE, result=raw, children=specs, journal=notes)
        return reply.state

    def post_completion(self, result: Raw) -> "asyncio.Future[Completed]":
        """Send that the execution is complete, without waiting; for the worker itself."""
        return self._calls.post(verbs.LEASE_COMPLETE, result=result)

    async def complete_posted(self, error: BaseException, result: Raw) -> None:
        """Go on after a posted completion has failed with this error; for the worker itself."""
        await self._calls.consume_posted(error, verbs.LEASE_COMPLETE, result=result)

    async def fail(
        self,
        reason: str,
        category: str = "error",
        *,
        retryable: bool = True,
        retry_after: Duration | None = None,
    ) -> Failed:
        """Fail this attempt. The reply's `outcome` says whether another attempt follows."""
        after = None if retry_after is None else max(0, milliseconds(retry_after))
        return await self._calls.consume(
            verbs.LEASE_FAIL,
            reason=text_of(reason),
            category=category,
            retryable=retryable,
            retry_after_ms=after,
        )

    async def cancel(self, reason: str = "canceled") -> str:
        """Give up for good: the execution ends as canceled. Return the execution's state."""
        return (await self._calls.consume(verbs.LEASE_CANCEL, reason=text_of(reason))).state

    async def delay(self, seconds: Duration | None = None, *, until: int | None = None) -> str:
        """Give the lease back and go on after `seconds` (or a timedelta), or at `until` (ms since the Unix epoch).

        The handler then runs again from its start, with `task.resumed` true. Return the execution's state.
        """
        if (seconds is None) == (until is None):
            raise TypeError("delay() takes seconds or until")
        if seconds is not None:
            until = max(0, round(self._leases.clock.now()) + milliseconds(seconds))
        return (await self._calls.consume(verbs.LEASE_DELAY, until=until)).state

    async def await_children(self) -> str:
        """Give the lease back until every child (see `create_child`) has ended, in any way.

        The handler then runs again from its start, with `task.resumed` true. Return the execution's state.
        """
        return (await self._calls.consume(verbs.LEASE_AWAIT_CHILDREN)).state

    async def suspend(
        self,
        condition: ConditionLike = None,
        *,
        reason_code: str = "signal",
        timeout: Duration | None = None,
        timeout_behavior: TimeoutBehavior = "fail",
        waitpoint: WaitpointCreated | str | None = None,
    ) -> Suspended:
        """Give the lease back and wait for signals. `Suspend` explains the arguments.

        If the reply's `outcome` is `suspended`, return from the handler: it runs again when the condition is met.
        If it is `already_satisfied`, the signals came before: the lease is kept, the task is not consumed and
        `resumed_by()` has the signals.
        """
        waitpoint_id = waitpoint.waitpoint_id if isinstance(waitpoint, WaitpointCreated) else waitpoint
        reply = await self._calls.consume(
            verbs.LEASE_SUSPEND,
            reason_code=reason_code,
            condition=condition_of(condition),
            timeout_ms=None if timeout is None else milliseconds(timeout),
            timeout_behavior=timeout_behavior,
            waitpoint_id=waitpoint_id,
        )
        if reply.outcome == "already_satisfied":
            self._resumed = True
            self._signals = [Signal(item) for item in reply.items or []]
        return reply

    async def release(self) -> str:
        """Give a task back that was leased but not begun. No attempt is counted. Return the execution's state."""
        return (await self._calls.consume(verbs.LEASE_RELEASE)).state

    # Calls that do not consume the task.

    async def progress(self, pct: float, message: str = "") -> None:
        """Report progress: `pct` is 0 to 100 percent."""
        await self._calls.call(verbs.LEASE_PROGRESS, pct=pct, message=message)

    async def report_usage(
        self, budget_id: str, dimensions: Mapping[str, int], dedup_key: str | None = None
    ) -> Usage:
        """Report what was used of a budget since the last report. Reports with the same `dedup_key` count once.

        Passing a hard limit ends the lease and sets `consumed`. Return from the handler then; with `on_hard`
        "suspend" it runs again once the budget has room. With `on_hard` "deny", passing a hard limit counts
        nothing, keeps the lease and raises `errors.BudgetExceeded`.
        """
        request = self._calls.request(
            verbs.LEASE_USAGE,
            budget_id=budget_id,
            dimensions=dict(dimensions),
            dedup_key=dedup_key or uuid7(),
        )
        reply = await self._calls.answer(usage.report(self._requester, self._lease, request))
        if reply.state not in (None, "leased", "running"):
            self._calls.end()
        return reply

    async def create_child(self, kind: str, input: Any = NULL, **options: Any) -> str:
        """Create a child execution that `await_children` waits for, and return its id.

        `options` are fields of `execution.create`. A handler that runs again creates the child again: pass an
        `idempotency_key`, or check `task.resumed`.
        """
        request = ExecutionCreate(kind=kind, raw_input=raw_of(input), parent_id=self.execution_id, **options)
        return (await self._requester.call(verbs.EXECUTION_CREATE, request)).execution_id

    async def append_frame(self, frame_type: str, payload: Any = NULL, metadata: Any = NULL) -> FrameStored:
        """Store a frame, which `client.frames(…, follow=True)` sees at once. The reply has its index.

        Frames of one event-loop tick (`asyncio.gather`) leave in one message. A frame without a reply is sent again
        and stored once. Raises `payload_too_large` past 10,000 frames or 64 MiB per execution.
        """
        if self._frames is None:
            self._frames = FrameSender(self._requester, self._lease)
        frame = self._calls.request(
            verbs.LEASE_FRAME,
            frame_type=frame_type,
            payload=raw_of(payload),
            metadata=raw_of(metadata),
        )
        return await self._calls.answer(self._frames.append(frame))

    async def create_waitpoint(self, key: str, *, expires_in: Duration = 86_400.0) -> WaitpointCreated:
        """Create a waitpoint. It collects signals even before the task suspends on it.

        The reply has its `token`, which is shown only here: give it to the sender of the signal.
        """
        return await self._calls.call(
            verbs.WAITPOINT_CREATE, waitpoint_key=key, expires_in_ms=milliseconds(expires_in)
        )

    async def resumed_by(self) -> list[Signal]:
        """Return the signals that caused this resume: none after a timeout or an operator's resume."""
        if self._signals is None:
            page = await self._calls.call(verbs.SIGNAL_RESUMED_BY)
            self._signals = [Signal(item) for item in page.items]
        return self._signals

    def run(self, call: Awaitable[T]) -> T:
        """Run one of the async methods from a sync handler's thread: `task.run(task.progress(50))`."""
        return asyncio.run_coroutine_threadsafe(_awaited(call), self._requester.loop).result()


async def _awaited(call: Awaitable[T]) -> T:
    return await call
