"""The durable calls of a task, typed: what a handler awaits, it finds in its journal when it runs again."""

import builtins
import random
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, TypeVar, TypeVarTuple, overload
from uuid import NAMESPACE_OID, UUID, uuid5

from penstock.messages.common import NULL
from penstock.worker._errors import ConditionLike, Duration
from penstock.worker._signals import Signal
from penstock.worker.durable import children, race, timing, together
from penstock.worker.durable.children import ChildRun
from penstock.worker.durable.errors import StepKeyNeeded, TaskSuspended
from penstock.worker.durable.identity import checked_name
from penstock.worker.durable.operation import Operation
from penstock.worker.durable.race import Won
from penstock.worker.durable.retries import FIVE_TRIES, ONE_TRY, Retries
from penstock.worker.durable.run import DurableRun
from penstock.worker.durable.state import State
from penstock.worker.durable.steps import OnChange, Step, run_step
from penstock.worker.durable.timing import MISSING
from penstock.worker.durable.together import Failures
from penstock.worker.durable.undo import KIND, Undos
from penstock.worker.durable.versions import at_least

T = TypeVar("T")
D = TypeVar("D")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
Ts = TypeVarTuple("Ts")
ParentClose = Literal["cancel", "let_run"]


class DurableCalls:
    """The part of `Task` that journals (docs/durable-functions.md).

    Each call has a `name`. A second call of the same name is another entry (`pack@2`), in order of call. Inside a loop
    over things, give `key=` what the thing is called: then the order does not matter. Calls that run side by side under
    one name need keys; without, they raise `StepKeyNeeded` before anything runs. Inside a step, all raise `NestedStep`.

    A call may raise `TaskSuspended`: the handler ends there, and runs again from its start when the wait is over.
    """

    __slots__ = ()

    def _durable_run(self) -> DurableRun:
        raise NotImplementedError

    def _undos(self) -> Undos:
        raise NotImplementedError

    async def _continue_as(self, input: Any) -> None:
        raise NotImplementedError

    # Steps.

    @overload
    def step(  # pyright: ignore[reportOverlappingOverload] - an async function is also a function
        self,
        name: str,
        function: Callable[[*Ts], Coroutine[Any, Any, T]],
        /,
        *args: *Ts,
        key: object = None,
        retry: Retries | None = None,
        once: bool = False,
        on_change: OnChange = "reuse",
    ) -> Operation[T]: ...

    @overload
    def step(
        self,
        name: str,
        function: Callable[[*Ts], T],
        /,
        *args: *Ts,
        key: object = None,
        retry: Retries | None = None,
        once: bool = False,
        on_change: OnChange = "reuse",
    ) -> Operation[T]: ...

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: object = None,
        retry: Retries | None = None,
        once: bool = False,
        on_change: OnChange = "reuse",
    ) -> Operation[Any]:
        """Run `function(*args)` once, and journal its result; in later runs, return that. A sync function runs in a
        thread.

        For keyword arguments use `functools.partial`. The result is anything that msgspec can encode, and comes back
        as the type that the function is annotated to return; without annotation, as plain values.

        An exception is another try, as `retry` says (by default five tries, over half a minute). `Fail` is none, and
        `Retry(after=…)` says when. At last the step has failed: that is journaled too, and `StepFailed` is raised.

        A step runs *at least* once: if its worker dies between the effect and the journal, it runs again. With `once`
        it runs *at most* once: then, if that happens, `StepInDoubt` is raised. A `once` step has one try unless `retry`
        says otherwise.

        `on_change` says what to do when the journal's result is of another function or other arguments: "reuse" it,
        "fail" (suspend, until an operator resumes the execution on code that fits) or "rerun".
        """
        run = self._durable_run()
        made = run.key(f"step({name!r})", "step", name, key)
        retries = retry or (ONE_TRY if once else FIVE_TRIES)
        step = Step(
            made, function, args, retries, once=once, on_change=on_change, digests=run.options.digests
        )
        return Operation(made, lambda: run_step(run, step), named=key is None)

    def compensate(
        self,
        name: str,
        function: Callable[[*Ts], Any],
        /,
        *args: *Ts,
        key: object = None,
        retry: Retries | None = None,
    ) -> None:
        """Register `function(*args)` to undo what was done, if the execution fails for good or is canceled.

        All that were registered run in reverse, each as a step. A worker that dies meanwhile does not matter. Register
        *before* the step that has the effect, if undoing what never happened does no harm; and before `task.first`, not
        inside a branch of it: later runs leave out the branches that have lost.
        """
        run = self._durable_run()
        if run.branches.current().in_race:
            raise StepKeyNeeded(
                f"{KIND}:{name}",
                "is registered in a branch of task.first, which later runs leave out if another one wins: "
                "register it before task.first",
            )
        made = run.key(f"compensate({name!r})", KIND, name, key)
        undo = "undo" + made.removeprefix(KIND)
        step = Step(undo, function, args, retry or FIVE_TRIES, digests=run.options.digests)
        self._undos().push(made, step)

    # Waits.

    def sleep(self, name: str, time: Duration | datetime, /, *, key: object = None) -> Operation[None]:
        """Wait for a time (seconds, a timedelta), or until a datetime that has a time zone.

        The time counts from the first call: a run that comes here again waits only for what is left. Longer waits than
        the handler's `keep_warm` (2 s) hold no lease and no memory of a worker.
        """
        run = self._durable_run()
        made = run.key(f"sleep({name!r})", "sleep", name, key)
        at = timing.when(made, time)
        return Operation(made, lambda: timing.sleep(run, made, at), named=key is None, bare=True)

    @overload
    def wait_signal(
        self,
        name: str,
        /,
        *,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[Signal]: ...

    @overload
    def wait_signal(
        self,
        name: str,
        /,
        *,
        default: D,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[Signal | D]: ...

    def wait_signal(
        self,
        name: str,
        /,
        *,
        default: Any = MISSING,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[Any]:
        """Wait for a signal called `name` (`review.*` is any that begins so), and return it. Earlier ones count too.

        After `timeout` return `default`, or raise `SignalTimeout` without one. The signal goes to the waitpoint with
        the key `waitpoint`, by default the wait's name and key. `create_waitpoint` with that key, before, gives a
        token for it.
        """
        run, made, new = self._signal_wait("wait_signal", name, key, None, waitpoint, timeout)
        return Operation(
            made, lambda: timing.wait_signal(run, made, new, default), named=key is None, bare=True
        )

    @overload
    def wait_signals(
        self,
        name: str,
        condition: ConditionLike,
        /,
        *,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[list[Signal]]: ...

    @overload
    def wait_signals(
        self,
        name: str,
        condition: ConditionLike,
        /,
        *,
        default: D,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[list[Signal] | D]: ...

    def wait_signals(
        self,
        name: str,
        condition: ConditionLike,
        /,
        *,
        default: Any = MISSING,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Operation[Any]:
        """Wait until signals meet a condition (as in `Suspend`), and return them. The rest is as in `wait_signal`."""
        run, made, new = self._signal_wait("wait_signals", name, key, condition, waitpoint, timeout)
        return Operation(
            made, lambda: timing.wait_signals(run, made, new, default), named=key is None, bare=True
        )

    @overload
    def wait_event(
        self, topic: str, correlation_id: str, /, *, key: object = None, timeout: Duration | None = None
    ) -> Operation[Signal]: ...

    @overload
    def wait_event(
        self,
        topic: str,
        correlation_id: str,
        /,
        *,
        default: D,
        key: object = None,
        timeout: Duration | None = None,
    ) -> Operation[Signal | D]: ...

    def wait_event(
        self,
        topic: str,
        correlation_id: str,
        /,
        *,
        default: Any = MISSING,
        key: object = None,
        timeout: Duration | None = None,
    ) -> Operation[Any]:
        """Wait for an event that is published on `penstock.event.<topic>` with this correlation id, and return it.

        Its body is the `payload`, and its topic the `name`. One that came before counts too, as long as it is kept
        (`PENSTOCK_EVENT_TTL_MS`, an hour). Each event ends one wait of an execution. The rest is as in `wait_signal`.
        """
        run = self._durable_run()
        made = run.key(f"wait_event({topic!r})", "event", topic, key)
        new = timing.event_entry(made, topic, correlation_id, key, timeout)
        return Operation(
            made, lambda: timing.wait_signal(run, made, new, default), named=key is None, bare=True
        )

    def _signal_wait(
        self,
        call: str,
        name: str,
        key: object,
        condition: ConditionLike,
        waitpoint: str | None,
        timeout: Duration | None,
    ) -> tuple[DurableRun, str, Any]:
        run = self._durable_run()
        made = run.key(f"{call}({name!r})", "signal", name, key)
        return run, made, timing.signal_entry(made, name, key, condition, waitpoint, timeout)

    # Children.

    @overload
    def child(
        self,
        name: str,
        kind: str,
        input: Any = NULL,
        /,
        *,
        type: builtins.type[T],
        key: object = None,
        parent_close: ParentClose = "cancel",
        **options: Any,
    ) -> Operation[T]: ...

    @overload
    def child(
        self,
        name: str,
        kind: str,
        input: Any = NULL,
        /,
        *,
        key: object = None,
        parent_close: ParentClose = "cancel",
        **options: Any,
    ) -> Operation[Any]: ...

    def child(
        self,
        name: str,
        kind: str,
        input: Any = NULL,
        /,
        *,
        type: Any = Any,
        key: object = None,
        parent_close: ParentClose = "cancel",
        **options: Any,
    ) -> Operation[Any]:
        """Create a child execution, once, wait for it and return its result, as `type`. Raises `ChildFailed`.

        `options` are fields of `execution.create`. When this execution ends first, the child is canceled, or with
        `parent_close="let_run"` goes on.
        """
        run = self._durable_run()
        made = run.key(f"child({name!r})", "child", name, key)
        new = children.entry_of(made, kind, input, parent_close, options)
        return Operation(made, lambda: children.wait_for(run, made, new, type), named=key is None, bare=True)

    @overload
    def spawn(
        self,
        name: str,
        kind: str,
        input: Any = NULL,
        /,
        *,
        type: builtins.type[T],
        key: object = None,
        parent_close: ParentClose = "cancel",
        **options: Any,
    ) -> Operation[ChildRun[T]]: ...

    @overload
    def spawn(
        self,
        name: str,
        kind: str,
        input: Any = NULL,
        /,
        *,
        key: object = None,
        parent_close: ParentClose = "cancel",
        **options: Any,
    ) -> Operation[ChildRun[Any]]: ...

    def spawn(
        self,
        name: str,
        kind: str,
        input: Any = NULL,
        /,
        *,
        type: Any = Any,
        key: object = None,
        parent_close: ParentClose = "cancel",
        **options: Any,
    ) -> Operation[ChildRun[Any]]:
        """Create a child execution as `child` does, without waiting: `await handle.result()` does that later."""
        run = self._durable_run()
        made = run.key(f"spawn({name!r})", "child", name, key)
        new = children.entry_of(made, kind, input, parent_close, options)
        return Operation(made, lambda: children.spawn(run, made, new, type), named=key is None)

    # Side by side.

    @overload
    def parallel(
        self, one: Awaitable[T1], /, *, failures: Failures = "wait"
    ) -> Coroutine[Any, Any, tuple[T1]]: ...

    @overload
    def parallel(
        self, one: Awaitable[T1], two: Awaitable[T2], /, *, failures: Failures = "wait"
    ) -> Coroutine[Any, Any, tuple[T1, T2]]: ...

    @overload
    def parallel(
        self,
        one: Awaitable[T1],
        two: Awaitable[T2],
        three: Awaitable[T3],
        /,
        *,
        failures: Failures = "wait",
    ) -> Coroutine[Any, Any, tuple[T1, T2, T3]]: ...

    @overload
    def parallel(
        self,
        one: Awaitable[T1],
        two: Awaitable[T2],
        three: Awaitable[T3],
        four: Awaitable[T4],
        /,
        *,
        failures: Failures = "wait",
    ) -> Coroutine[Any, Any, tuple[T1, T2, T3, T4]]: ...

    @overload
    def parallel(
        self,
        one: Awaitable[T1],
        two: Awaitable[T2],
        three: Awaitable[T3],
        four: Awaitable[T4],
        five: Awaitable[T5],
        /,
        *,
        failures: Failures = "wait",
    ) -> Coroutine[Any, Any, tuple[T1, T2, T3, T4, T5]]: ...

    @overload
    def parallel(
        self, *branches: Awaitable[T], failures: Failures = "wait"
    ) -> Coroutine[Any, Any, tuple[T, ...]]: ...

    def parallel(
        self, *branches: Awaitable[Any], failures: Failures = "wait"
    ) -> Coroutine[Any, Any, tuple[Any, ...]]:
        """Run durable calls, or coroutines that make some, side by side. Return their results in order.

        If some fail, the first error by position is raised when all have ended; with `failures="cancel"` at the first
        failure, and the others are given up. While all of them wait, the execution is suspended until one can go on.
        """
        run = self._durable_run()
        self._check_branches(run, "parallel", branches)
        return together.parallel(run, branches, failures)

    def first(self, name: str, /, **branches: Awaitable[T]) -> Coroutine[Any, Any, Won[T]]:
        """Run named branches side by side until one has ended: `Won(branch, value)`, or the error it ended with.

        Which one won is journaled, so every later run goes on with the same one. The others are given up. A child among
        them goes on until its parent ends. Names that a branch uses inside cannot be used again afterwards without
        keys.
        """
        run = self._durable_run()
        made = run.key(f"first({name!r})", "first", name)
        if not branches:
            raise TypeError("first() needs at least one branch")
        self._check_branches(run, "first", tuple(branches.values()))
        return race.first(run, made, branches)

    @staticmethod
    def _check_branches(run: DurableRun, call: str, branches: tuple[Awaitable[Any], ...]) -> None:
        try:
            run.check(call)
            together.check(run, branches)
        except BaseException:
            together.discard(branches)
            raise

    # Values that are the same in every run.

    def now(self, name: str = "now", /, *, key: object = None) -> Operation[datetime]:
        """Return the time (UTC) at which this was first called."""
        run = self._durable_run()
        made = run.key("now", "now", name, key)
        step = Step(made, _now, (), ONE_TRY)
        return Operation(made, lambda: run_step(run, step), named=key is None)

    def random(self, name: str = "random", /) -> random.Random:
        """Return a generator seeded by the execution and the name. It makes no entry, and is no source of secrets."""
        return random.Random(f"{self._durable_run().execution_id}/{checked_name(name)}")

    def uuid(self, name: str, /) -> UUID:
        """Return a UUID made of the execution and the name: good as an idempotency key. It makes no entry."""
        return uuid5(NAMESPACE_OID, f"{self._durable_run().execution_id}/{checked_name(name)}")

    @property
    def state(self) -> State:
        """A small map that `execution.query` reads, without a worker: `task.state["stage"] = "packing"`."""
        return self._durable_run().state

    # Versions.

    def began(self, version: str, /) -> bool:
        """Return whether the code that began this execution is of `version` (such as "3" or "3.1") or later.

        Executions that were begun before keep to their old way. The answer never changes, and makes no entry.
        """
        return at_least(self._durable_run().journal.version, version)

    def patch(self, name: str, /) -> bool:
        """Return whether to take a new way that also executions in flight shall take, if they have not passed here.

        True if an earlier run took it, or if this run has come to where no earlier one has been. Not for branches of
        `parallel` and `first`, where that is not defined.
        """
        run = self._durable_run()
        run.check(f"patch({name!r})")
        if run.branches.current() is not run.branches.root:
            raise StepKeyNeeded(
                f"patch:{name}", "is asked inside a branch: ask before task.parallel or task.first"
            )
        key = f"patch:{checked_name(name)}"
        if run.journal.ask(key) is not None:
            return True
        if not run.journal.at_frontier or run.compensating is not None:
            return False
        run.mark(key, "patch", name)
        return True

    async def continue_as(self, input: Any, /) -> NoReturn:
        """End this execution and begin the next one of its kind with `input` and an empty journal, in one step.

        For loops without end. Lane, tags and limits are kept. Whoever waits for the result gets that of the last one.
        """
        self._durable_run().check("continue_as")
        await self._continue_as(input)
        raise TaskSuspended("the execution goes on in another one")


def _now() -> datetime:
    return datetime.now(UTC)
