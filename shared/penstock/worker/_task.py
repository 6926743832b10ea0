"""`Task`: what a handler can see and do."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
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

T = TypeVar("T")


class Task:
    """One attempt at one execution.

    `complete`, `fail`, `cancel`, `suspend`, `delay`, `await_children` and `release` consume it: a second one
    raises `TaskConsumedError` before anything is sent. Returning from the handler completes a task that was
    not consumed.
    """

    __slots__ = (
        "_calls",
        "_frames",
        "_input",
        "_lease",
        "_leases",
        "_loop",
        "_requester",
        "_resumed",
        "_signals",
        "context",
    )

    def __init__(self, requester: Requester, leases: LeaseRenewer, lease: Lease, context: Any = None) -> None:
        self.context = context
        """What the worker's lifespan gave."""
        self._frames: FrameSender | None = None
        self._requester = requester
        self._leases = leases
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._calls = FencedCalls(requester, leases, lease)
        self._input: Any = _UNREAD
        self._resumed = lease.message.resumed
        self._signals: list[Signal] | None = None

    # What it is.

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
        """Milliseconds since the Unix epoch, or None."""
        return self._lease.message.deadline_at

    @property
    def resumed(self) -> bool:
        """Whether this run continues after a suspension: `await task.resumed_by()` tells the signals."""
        return self._resumed

    @property
    def raw_input(self) -> Raw:
        """The input's JSON, byte for byte."""
        return self._lease.message.input

    @property
    def input(self) -> Any:
        """The input as plain Python values."""
        if self._input is _UNREAD:
            self._input = msgspec.json.decode(self._lease.message.input)
        return self._input

    def input_as(self, type: type[T]) -> T:
        """The input as this type. Raises `msgspec.ValidationError`."""
        return msgspec.json.decode(self._lease.message.input, type=type)

    # How its lease is.

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody wants this stopped. Async handlers are cancelled; sync ones look here."""
        return self._lease.cancel_requested

    @property
    def consumed(self) -> bool:
        """Whether the outcome is decided."""
        return self._calls.consumed

    def is_lease_healthy(self) -> bool:
        """False after three failed renewals in a row, and once the lease is lost or over."""
        return self._lease.healthy

    def consecutive_renewal_failures(self) -> int:
        return self._lease.failures

    async def renew(self) -> None:
        """Renew the lease now (it also renews by itself). Raises what the lease-keeper answers."""
        await self._leases.renew(self._lease)

    # What consumes it.

    async def complete(self, result: Any = None, *, children: Iterable[Child] = ()) -> str:
        """End with a result (anything that msgspec can encode). Answers the state.

        `children` are created in the same atomic step: each `(kind, input)`, or the fields of
        `execution.create`. Raises `TypeError` when something cannot be encoded: then the task is not
        consumed.
        """
        reply = await self._calls.consume(
            verbs.LEASE_COMPLETE, result=raw_of(result), children=[spec_of(child) for child in children]
        )
        return reply.state

    async def fail(
        self,
        reason: str,
        category: str = "error",
        *,
        retryable: bool = True,
        retry_after: Duration | None = None,
    ) -> Failed:
        """This attempt failed. Says whether another one follows."""
        after = None if retry_after is None else max(0, milliseconds(retry_after))
        return await self._calls.consume(
            verbs.LEASE_FAIL,
            reason=text_of(reason),
            category=category,
            retryable=retryable,
            retry_after_ms=after,
        )

    async def cancel(self, reason: str = "canceled") -> str:
        """Give the work up, for good: the execution ends as canceled. Answers the state."""
        return (await self._calls.consume(verbs.LEASE_CANCEL, reason=text_of(reason))).state

    async def delay(self, seconds: Duration | None = None, *, until: int | None = None) -> str:
        """Give the lease back and go on later: after so many seconds (or a timedelta), or at an instant (ms).

        The handler runs again from its start then, with `task.resumed` true. Answers the state.
        """
        if (seconds is None) == (until is None):
            raise TypeError("delay() takes seconds or until")
        if seconds is not None:
            until = max(0, round(self._leases.clock.now()) + milliseconds(seconds))
        return (await self._calls.consume(verbs.LEASE_DELAY, until=until)).state

    async def await_children(self) -> str:
        """Give the lease back until every child has ended, well or not (`create_child` makes one).

        The handler runs again from its start then, with `task.resumed` true. Answers the state.
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
        """Give the lease back and wait for signals (`Suspend` says what the arguments mean).

        `outcome` is `suspended`: return from the handler; it runs again when the condition is met. Or
        `already_satisfied`: the signals had come before, the lease is kept, the task is not consumed and
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
        """Give back what was leased and not begun, using no attempt up."""
        return (await self._calls.consume(verbs.LEASE_RELEASE)).state

    # What does not.

    async def progress(self, pct: float, message: str = "") -> None:
        """Tell how far this is: 0 to 100 percent."""
        await self._calls.call(verbs.LEASE_PROGRESS, pct=pct, message=message)

    async def report_usage(
        self, budget_id: str, dimensions: Mapping[str, int], dedup_key: str | None = None
    ) -> Usage:
        """Tell what was used of a budget since the last report. Reports with the same `dedup_key` count once.

        Passing a hard limit ends the lease, unless the budget denies (then `errors.BudgetExceeded` is raised
        and nothing was counted). `consumed` is true then: return from the handler; it runs again
        once there is room in the budget.
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
        """Create an execution that `await_children` waits for; `options` as in `execution.create`. Its id.

        A handler that runs again creates again: give an `idempotency_key`, or look at `task.resumed`.
        """
        request = ExecutionCreate(kind=kind, input=raw_of(input), parent_id=self.execution_id, **options)
        return (await self._requester.call(verbs.EXECUTION_CREATE, request)).execution_id

    async def append_frame(self, frame_type: str, payload: Any = NULL, metadata: Any = NULL) -> FrameStored:
        """Put out a frame: stored, and seen at once by `client.frames(…, follow=True)`. Answers its index.

        Frames of one tick (`asyncio.gather`) leave as one message; what is not answered is sent again and stored
        once. Raises `payload_too_large` past 10,000 frames or 64 MiB of an execution.
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
        """A waitpoint that collects signals already, before the task suspends on it.

        Its `token` is shown only here: hand it to whoever shall send the signal.
        """
        return await self._calls.call(
            verbs.WAITPOINT_CREATE, waitpoint_key=key, expires_in_ms=milliseconds(expires_in)
        )

    async def resumed_by(self) -> list[Signal]:
        """The signals that caused this resume; empty after a timeout or an operator's resume."""
        if self._signals is None:
            page = await self._calls.call(verbs.SIGNAL_RESUMED_BY)
            self._signals = [Signal(item) for item in page.items]
        return self._signals

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """From a sync handler's thread: run one of the methods above, e.g. `task.run(task.progress(50))`."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


_UNREAD: Any = object()
