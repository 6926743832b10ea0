"""What surrounds handlers: middleware around each, what is set up before the first and torn down after the last."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from penstock.worker._task import Task

CallNext = Callable[[Task], Awaitable[Any]]
Middleware = Callable[[Task, CallNext], Awaitable[Any]]
Lifespan = Callable[[], AbstractAsyncContextManager[Any]]
Hook = Callable[[], Any]


class Hooks:
    """The hooks of one worker, in the order in which they were registered."""

    def __init__(self) -> None:
        self.middleware: list[Middleware] = []
        self.startup: list[Hook] = []
        self.shutdown: list[Hook] = []
        self.lifespan: Lifespan | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Any]:
        """Startup hooks, then the lifespan, whose value this gives; at the end the lifespan, then shutdown hooks."""
        async with AsyncExitStack() as stack:
            for hook in self.startup:
                await _run(hook)
            for hook in reversed(self.shutdown):
                stack.push_async_callback(_run, hook)
            yield None if self.lifespan is None else await stack.enter_async_context(self.lifespan())

    def call(self, task: Task, handler: CallNext) -> Awaitable[Any]:
        """The handler inside all middleware; the first that was registered is the outermost."""
        call_next = handler
        for each in reversed(self.middleware):
            call_next = _around(each, call_next)
        return call_next(task)


def _around(middleware: Middleware, call_next: CallNext) -> CallNext:
    return lambda task: middleware(task, call_next)


async def _run(hook: Hook) -> None:
    result = hook()
    if inspect.isawaitable(result):
        await result
