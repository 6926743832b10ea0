"""Hooks around handlers: middleware around each call, and startup, lifespan and shutdown around all of them."""

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
    """The hooks of one worker, in order of registration."""

    def __init__(self) -> None:
        self.middleware: list[Middleware] = []
        self.startup: list[Hook] = []
        self.shutdown: list[Hook] = []
        self.lifespan: Lifespan | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Any]:
        """Run startup hooks, enter the lifespan and yield its value. At the end, exit it and run shutdown hooks."""
        async with AsyncExitStack() as stack:
            for hook in self.startup:
                await _run(hook)
            for hook in reversed(self.shutdown):
                stack.push_async_callback(_run, hook)
            yield None if self.lifespan is None else await stack.enter_async_context(self.lifespan())

    def call(self, task: Task, handler: CallNext) -> Awaitable[Any]:
        """Call the handler inside all middleware. The first one registered is the outermost."""
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
