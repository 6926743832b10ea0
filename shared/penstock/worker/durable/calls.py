"""The durable calls of a task, typed: what a handler awaits, it finds in its journal when it runs again."""

import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar, TypeVarTuple, overload
from uuid import NAMESPACE_OID, UUID, uuid5

from penstock.worker.durable.branch_calls import BranchCalls
from penstock.worker.durable.errors import StepKeyNeeded, TaskSuspended
from penstock.worker.durable.identity import checked_name
from penstock.worker.durable.operation import Operation
from penstock.worker.durable.retries import FIVE_TRIES, ONE_TRY, Retries
from penstock.worker.durable.state import State
from penstock.worker.durable.steps import OnChange, Step, run_step
from penstock.worker.durable.undo import KIND, Undos
from penstock.worker.durable.versions import at_least
from penstock.worker.durable.wait_calls import WaitCalls

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DurableCalls(WaitCalls, BranchCalls):
    """The part of `Task` that journals (docs/durable-functions.md).

    Each call has a `name`. A second call of the same name is another entry (`pack@2`), in order of call. Inside a loop
    over things, give `key=` what the thing is called: then the order does not matter. Calls that run side by side under
    one name need keys; without, they raise `StepKeyNeeded` before anything runs. Inside a step, all raise `NestedStep`.

    A call may raise `TaskSuspended`: the handler ends there, and runs again from its start when the wait is over.
    """

    __slots__ = ()

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
