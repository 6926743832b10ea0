"""The durable calls that start other work: children, and branches that run side by side."""

import builtins
from collections.abc import Awaitable, Coroutine
from typing import Any, Literal, TypeVar, overload

from penstock.messages.common import NULL
from penstock.worker.durable import children, race, together
from penstock.worker.durable.children import ChildRun
from penstock.worker.durable.operation import Operation
from penstock.worker.durable.race import Won
from penstock.worker.durable.run import DurableRun, InRun
from penstock.worker.durable.together import Failures

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
ParentClose = Literal["cancel", "let_run"]


class BranchCalls(InRun):
    """The children and branches of `DurableCalls`."""

    __slots__ = ()

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
