"""`Task`: the attempt as a handler sees it, and the calls that a handler can make."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from penstock import verbs
from penstock.bus.payloads import raw_of
from penstock.bus.requester import Requester
from penstock.ids import uuid7
from penstock.messages.common import NULL
from penstock.messages.executions import ExecutionCreate
from penstock.messages.frames import FrameStored
from penstock.messages.journal import Continues, EntryError
from penstock.messages.leases import Failed
from penstock.messages.limits import Usage
from penstock.messages.signals import Suspended, WaitpointCreated
from penstock.worker import _usage as usage
from penstock.worker._children import Child, spec_of
from penstock.worker._errors import ConditionLike, Duration, TimeoutBehavior, milliseconds, text_of
from penstock.worker._fenced import FencedCalls
from penstock.worker._frames import FrameSender
from penstock.worker._leases import Lease, LeaseRenewer
from penstock.worker._signals import Signal, condition_of
from penstock.worker.durable.calls import DurableCalls
from penstock.worker.durable.run import DurableOptions, DurableRun
from penstock.worker.durable.undo import Undos

T = TypeVar("T")


class Task(DurableCalls):
    """One attempt at one execution.

    `complete`, `fail`, `cancel`, `suspend`, `delay`, `await_children` and `release` consume the task. Calling
    another one after that raises `TaskConsumedError` before anything is sent. When the handler returns, a task
    that is not consumed is completed. The durable calls (`step`, `sleep` …) are in `DurableCalls`.
    """

    __slots__ = (
        "_calls",
        "_durable",
        "_frames",
        "_lease",
        "_leases",
        "_loop",
        "_options",
        "_registered",
        "_requester",
        "_resumed",
        "_signals",
        "context",
    )

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
        self._loop = asyncio.get_running_loop()
        self._calls = FencedCalls(requester, leases, lease)
        self._resumed = lease.message.resumed
        self._signals: list[Signal] | None = None
        self._options = options
        # Made at the first durable call: a handler that makes none pays nothing for them.
        self._durable: DurableRun | None = None
        self._registered: Undos | None = None

    # The task's data.

    @property
    def execution_id(self) -> str:
        return self._lease.message.execution_id

    @property
    def kind(self) -> str:
        return self._lease.message.kind

    @property
    def lane(self) -> str:
        return self._lease.message.lane

    @property
    def tags(self) -> dict[str, str]:
        return self._lease.message.tags

    @property
    def attempt_index(self) -> int:
        return self._lease.message.attempt_index

    @property
    def attempt_id(self) -> str:
        return self._lease.message.attempt_id

    @property
    def lease_id(self) -> str:
        return self._lease.message.lease_id

    @property
    def lease_epoch(self) -> int:
        return self._lease.message.lease_epoch

    @property
    def deadline_at(self) -> int | None:
        """The execution's deadline in milliseconds since the Unix epoch, or None."""
        return self._lease.message.deadline_at

    @property
    def resumed(self) -> bool:
        """Whether this run follows a suspension (see `resumed_by()`), a `delay` or `await_children`."""
        return self._resumed

    @property
    def raw_input(self) -> Raw:
        """The input as raw JSON, byte for byte."""
        return self._lease.message.raw_input

    @property
    def input(self) -> Any:
        """The input as plain Python values, decoded at the first access."""
        return self._lease.message.input

    def input_as(self, type: type[T]) -> T:
        """Return the input converted to `type`. Raises `msgspec.ValidationError`."""
        return msgspec.json.decode(self._lease.message.raw_input, type=type)

    # The lease.

    @property
    def cancel_requested(self) -> bool:
        """Whether a cancellation was requested. Async handlers are cancelled; sync handlers must check this."""
        return self._lease.cancel_requested

    @property
    def consumed(self) -> bool:
        """Whether the task already has its outcome."""
        return self._calls.consumed

    def is_lease_healthy(self) -> bool:
        """Return False after three failed renewals in a row, or once the lease is lost or past its end."""
        return self._lease.healthy

    def consecutive_renewal_failures(self) -> int:
        return self._lease.failures

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
        raw, specs = raw_of(result), [spec_of(child) for child in children]
        notes = None if self._durable is None else await self._durable.finish()
        reply = await self._calls.consume(verbs.LEASE_COMPLETE, result=raw, children=specs, journal=notes)
        return reply.state

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
        return asyncio.run_coroutine_threadsafe(_awaited(call), self._loop).result()

    # The durable side, for `DurableCalls` and the worker.

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


async def _awaited(call: Awaitable[T]) -> T:
    return await call
