"""A whole Penstock inside a test: the real services on real servers, spoken to over NATS only."""

import asyncio
import importlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import msgspec
import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from penstock.errors import PenstockError, from_body
from penstock.runtime import Settings, start
from penstock.verbs import SERVICES, VERBS

WAIT_S = 20.0
"""A deadline for things that take milliseconds: machines are noisy."""


class House:
    """`request` speaks the contract; `skew_ms` moves the clock of every service."""

    def __init__(self, client: Client, root: str, settings: Settings) -> None:
        self.nats = client
        self.js: JetStreamContext = client.jetstream()
        self.root = root
        self.settings = settings
        self.skew_ms = 0
        self.running: dict[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, nats_url: str, valkey_url: str, **overrides: Any) -> AsyncIterator[Self]:
        root = f"t{secrets.token_hex(5)}"
        settings = Settings(
            nats_url=nats_url, valkey_url=valkey_url, root=root, dev=True, sweep_ms=1000, **overrides
        )
        client = await nats.connect(nats_url)
        house = cls(client, root, settings)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(client.close)
            stack.push_async_callback(house._remove_streams)
            started = await asyncio.gather(*(house._start(name) for name in SERVICES))
            for running in started:
                stack.push_async_callback(running.stop)
            yield house
            await asyncio.gather(*(running.stop() for running in house.running.values()))

    async def _start(self, name: str) -> Any:
        build = importlib.import_module(f"penstock_{name.replace('-', '_')}.service").build
        instance = f"{name}-{secrets.token_hex(3)}"
        settings = msgspec.structs.replace(self.settings, instance=instance)
        self.running[name] = await start(name, build, settings, skew=lambda: self.skew_ms)
        return self.running[name]

    async def start_again(self, name: str) -> None:
        """A service that the test has stopped."""
        await self._start(name)

    async def _remove_streams(self) -> None:
        for stream in await self.js.streams_info():
            name = stream.config.name or ""
            if name.startswith(self.root.upper()):
                await self.js.delete_stream(name)

    # -- the contract -----------------------------------------------------------------------------

    async def ask(self, verb: str, body: bytes, timeout: float = WAIT_S) -> Any:
        """The raw reply message to these bytes."""
        return await self.nats.request(VERBS[verb].subject(self.root), body, timeout=timeout)

    async def request(self, verb: str, body: Any = None, timeout: float = WAIT_S) -> Any:
        """A verb, as anyone would speak it. Raises PenstockError for a typed error."""
        reply = await self.ask(verb, msgspec.json.encode({} if body is None else body), timeout)
        answer = msgspec.json.decode(reply.data)
        if isinstance(answer, dict) and "error" in answer:
            raise from_body(answer["error"])
        return answer

    async def refused(self, verb: str, body: Any) -> PenstockError:
        """The error that a request must be answered with."""
        try:
            answer = await self.request(verb, body)
        except PenstockError as error:
            return error
        raise AssertionError(f"{verb} {body!r} was not refused: {answer!r}")

    # -- shorthands -------------------------------------------------------------------------------

    async def create(self, **spec: Any) -> str:
        created = await self.request("execution.create", {"kind": "test.job", **spec})
        return created["execution_id"]

    async def get(self, execution_id: str) -> dict[str, Any]:
        return await self.request("execution.get", {"execution_id": execution_id})

    async def take(self, most: int = 1, **options: Any) -> list[dict[str, Any]]:
        """Tasks that a worker gets now (leased, or begun with start=True)."""
        body = {"worker_id": "w1", "max": most, "wait_ms": 5000, **options}
        return (await self.request("work.next", body))["tasks"]

    async def begin(self, **options: Any) -> dict[str, Any]:
        """One task, running."""
        tasks = await self.take(1, start=True, **options)
        assert len(tasks) == 1, "there was no work"
        return tasks[0]

    async def until(
        self, look: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool], what: str = "a condition"
    ) -> Any:
        """Looks again and again until it holds; fails after a generous deadline."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while True:
            seen = await look()
            if holds(seen):
                return seen
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{what} did not come about; last seen: {seen!r}")
            await asyncio.sleep(0.01)

    async def reaches(self, execution_id: str, *states: str) -> dict[str, Any]:
        """The record once the execution is in one of these states."""
        return await self.until(
            lambda: self.get(execution_id), lambda record: record["state"] in states, f"state {states}"
        )

    def move_clock(self, ms: int) -> None:
        """Moves the time of all services; their due loops look at once."""
        self.skew_ms += ms
        for running in self.running.values():
            running.context.due.rebalance()


def fence(task: dict[str, Any]) -> dict[str, Any]:
    """The fence of a task."""
    return {name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")}
