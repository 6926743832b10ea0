"""Fake services for tests of the worker: they answer its requests over a real NATS with scripted replies."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from nats.aio.client import Client as Nats

from penstock import Worker, errors, verbs
from penstock.bus.calls import Call
from penstock.bus.endpoints import Endpoints

Script = Callable[[Any], Any]


DEADLINE_S = 60.0


roots = itertools.count()


class Services:
    """Answer the verbs that a worker sends: by the verb's script if there is one, else with a plain success."""

    def __init__(self, url: str, nats: Nats, root: str) -> None:
        self.url, self.nats, self.root = url, nats, root
        self.ready: deque[dict[str, Any]] = deque()
        self.parked: deque[tuple[str, int]] = deque()
        self.scripts: dict[str, Script] = {}
        self.seen: list[tuple[str, Any]] = []
        self.asked = 0
        self._changed = asyncio.Event()
        self._serial = itertools.count(1)
        self._endpoints: Endpoints | None = None

    async def start(self) -> None:
        plain = {
            verbs.LEASE_COMPLETE: {"state": "completed"},
            verbs.LEASE_FAIL: {"outcome": "terminal_failed"},
            verbs.LEASE_RELEASE: {"state": "ready"},
            verbs.LEASE_RENEW: {"expires_at": 0, "cancel_requested": False},
            verbs.LEASE_PROGRESS: {"progress": {}},
            verbs.LEASE_SUSPEND: {"outcome": "suspended"},
            verbs.EXECUTION_GET: errors.make("execution_not_found"),
        }
        handlers: dict[Any, Any] = {verb: self._handler(verb.name, reply) for verb, reply in plain.items()}
        handlers[verbs.WORK_NEXT] = self._next
        handlers[verbs.WORKER_REGISTER] = handlers[verbs.WORKER_HEARTBEAT] = self._seen
        self._endpoints = Endpoints(self.nats, "scheduler", handlers, root=self.root)
        await self._endpoints.start()

    async def stop(self) -> None:
        assert self._endpoints is not None
        await self._endpoints.drain(1.0)

    def _handler(self, name: str, reply: Any) -> Callable[[Call[Any]], Awaitable[list[Any]]]:
        async def handler(call: Call[Any]) -> list[Any]:
            answers: list[Any] = []
            for item in call.items:
                self.seen.append((name, item))
                answer = self.scripts[name](item) if name in self.scripts else reply
                answers.append(await answer if asyncio.iscoroutine(answer) else answer)
            self._changed.set()
            return answers

        return handler

    async def _seen(self, call: Call[Any]) -> list[Any]:
        now = round(time.time() * 1000)
        seen = {"status": "active", "heartbeat_ms": 10_000, "registered_at": now, "seen_at": now}
        return [{"worker_id": item.worker_id, "lanes": item.lanes, **seen} for item in call.items]

    async def _next(self, call: Call[Any]) -> list[Any] | None:
        self.asked += 1
        if refused := self.scripts.get("work.next", lambda _: None)(call.items[0]):
            return [refused]
        self.parked.append((call.reply_to, call.items[0].max))
        self._changed.set()
        await self._hand_out()
        return None

    async def _hand_out(self) -> None:
        while self.parked and self.ready:
            reply_to, most = self.parked.popleft()
            tasks = [self.ready.popleft() for _ in range(min(most, len(self.ready)))]
            await self.nats.publish(reply_to, msgspec.json.encode({"tasks": tasks}))

    async def give(self, kind: str, input: Any = None, **more: Any) -> None:
        self.ready.append(self.task(kind, input, **more))
        await self._hand_out()

    def task(self, kind: str, input: Any = None, **more: Any) -> dict[str, Any]:
        n = next(self._serial)
        task = {
            "execution_id": f"0-01890000-0000-7000-8000-{n:012x}",
            "kind": kind,
            "lane": "default",
            "input": input,
            "attempt_index": 1,
            "attempt_id": f"attempt{n}",
            "lease_id": f"lease{n}",
            "lease_epoch": 1,
            "lease_expires_at": round(time.time() * 1000) + 3_600_000,
        }
        return task | more

    def got(self, name: str) -> list[Any]:
        return [item for verb, item in self.seen if verb == name]

    async def until(self, condition: Callable[[], Any]) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            while not (value := condition()):
                self._changed.clear()
                await self._changed.wait()
        return value

    async def outcome(self, name: str) -> Any:
        """Wait for the first request of this verb, and return it."""
        return (await self.until(lambda: self.got(name)))[0]

    async def push(self, worker: Worker, message: dict[str, Any]) -> None:
        await self.nats.publish(f"{self.root}.worker.{worker.worker_id}", msgspec.json.encode(message))


class Running:
    """A worker in this event loop."""

    def __init__(self, services: Services, **settings: Any) -> None:
        self.worker = Worker(services.url, root=services.root, **{"grace": 5.0, **settings})
        self.worker.handler("unused")(lambda: None)  # a worker must have a handler

    def endless(self, kind: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Add a handler that runs until it is cancelled. Return the events of its beginning and its end."""
        began, ended = asyncio.Event(), asyncio.Event()

        @self.worker.handler(kind)
        async def endless() -> None:  # pyright: ignore[reportUnusedFunction]
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        return began, ended

    async def __aenter__(self) -> Worker:
        self.running = asyncio.create_task(self.worker.run(handle_signals=False))
        await self.worker.ready.wait()
        return self.worker

    async def __aexit__(self, *_: object) -> None:
        if not self.running.done():
            self.worker.stop()
        await asyncio.wait_for(self.running, DEADLINE_S)
