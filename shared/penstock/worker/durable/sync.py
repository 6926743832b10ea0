"""`SyncTask`: the durable calls of a sync handler, which block its thread."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, overload

from penstock.messages.common import NULL
from penstock.worker._errors import ConditionLike, Duration
from penstock.worker._signals import Signal
from penstock.worker.durable.branch_calls import ParentClose
from penstock.worker.durable.children import ChildRun
from penstock.worker.durable.race import Won
from penstock.worker.durable.retries import Retries
from penstock.worker.durable.state import State
from penstock.worker.durable.steps import OnChange
from penstock.worker.durable.together import Failures

if TYPE_CHECKING:
    from penstock.worker._task import Task

T = TypeVar("T")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")


class SyncTask:
    """A task as a sync handler sees it: annotate the first parameter of a plain `def` with it.

    Each call does what the one of `Task` with that name does, and returns when it has ended. `aio` is that `Task`, for
    branches of `parallel` and `first` and for everything else: `task.parallel(task.aio.step(…), task.aio.step(…))`,
    `task.run(task.aio.progress(50))`.
    """

    __slots__ = ("aio",)

    def __init__(self, task: "Task") -> None:
        self.aio = task

    @property
    def execution_id(self) -> str:
        return self.aio.execution_id

    @property
    def input(self) -> Any:
        return self.aio.input

    @property
    def attempt_index(self) -> int:
        return self.aio.attempt_index

    @property
    def context(self) -> Any:
        """The value that the worker's lifespan yielded."""
        return self.aio.context

    @property
    def cancel_requested(self) -> bool:
        return self.aio.cancel_requested

    @property
    def state(self) -> State:
        return self.aio.state

    def run(self, call: Awaitable[T]) -> T:
        """Await one of the calls of `aio` in the worker's event loop."""
        return self.aio.run(call)

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
    ) -> T:
        """Run a sync function once, in a thread; for an async one use `task.run(task.aio.step(…))`."""
        return self.run(
            self.aio.step(name, function, *args, key=key, retry=retry, once=once, on_change=on_change)
        )

    def compensate(
        self,
        name: str,
        function: Callable[[*Ts], Any],
        /,
        *args: *Ts,
        key: object = None,
        retry: Retries | None = None,
    ) -> None:
        self._in_loop(lambda: self.aio.compensate(name, function, *args, key=key, retry=retry))

    def sleep(self, name: str, time: Duration | datetime, /, *, key: object = None) -> None:
        self.run(self.aio.sleep(name, time, key=key))

    @overload
    def wait_signal(
        self,
        name: str,
        /,
        *,
        key: object = None,
        timeout: Duration | None = None,
        waitpoint: str | None = None,
    ) -> Signal: ...

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
    ) -> Signal | D: ...

    def wait_signal(self, name: str, /, **options: Any) -> Any:
        return self.run(self.aio.wait_signal(name, **options))

    @overload
    def wait_event(
        self, topic: str, correlation_id: str, /, *, key: object = None, timeout: Duration | None = None
    ) -> Signal: ...

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
    ) -> Signal | D: ...

    def wait_event(self, topic: str, correlation_id: str, /, **options: Any) -> Any:
        return self.run(self.aio.wait_event(topic, correlation_id, **options))

    def wait_signals(self, name: str, condition: ConditionLike, /, **options: Any) -> Any:
        return self.run(self.aio.wait_signals(name, condition, **options))

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
    ) -> Any:
        return self.run(self.aio.child(name, kind, input, key=key, parent_close=parent_close, **options))

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
    ) -> ChildRun[Any]:
        return self.run(self.aio.spawn(name, kind, input, key=key, parent_close=parent_close, **options))

    def parallel(self, *branches: Awaitable[T], failures: Failures = "wait") -> tuple[T, ...]:
        return self.run(self.aio.parallel(*branches, failures=failures))

    def first(self, name: str, /, **branches: Awaitable[T]) -> Won[T]:
        return self.run(self.aio.first(name, **branches))

    def now(self, name: str = "now", /, *, key: object = None) -> datetime:
        return self.run(self.aio.now(name, key=key))

    def began(self, version: str, /) -> bool:
        return self.aio.began(version)

    def _in_loop(self, call: Callable[[], T]) -> T:
        async def made() -> T:
            return call()

        return self.run(made())
