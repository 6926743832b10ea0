"""A whole Penstock inside a test (`penstock.testing`); the test talks to it over NATS only."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from penstock.errors import PenstockError, from_body
from penstock.runtime.running import Running
from penstock.testing import Penstock
from penstock.verbs import VERBS

WAIT_S = 60.0
"""A deadline for things that normally take milliseconds; it is long because machines are noisy."""
NOWHERE = "0-00000000-0000-7000-8000-000000000000"
"""A valid id that no entity has."""


class RunningPenstock(Penstock):
    """A Penstock whose `request` sends any verb of the contract and whose `move_clock` moves every service's time."""

    @property
    def running(self) -> dict[str, Running]:
        """The running services, by name."""
        return self.services

    @property
    def skew_ms(self) -> int:
        """How far the clock has been moved."""
        return self.clock.offset_ms

    @skew_ms.setter
    def skew_ms(self, ms: int) -> None:
        self.clock.offset_ms = ms

    async def start_again(self, name: str) -> None:
        """Start a service that the test has stopped."""
        await self.start_service(name)

    async def loses_its_lease(self, execution_id: str) -> None:
        """Move the clock by a minute, so that the lease expires, and wait until the execution is ready again."""
        self.move_clock(60_000)
        await self.reaches(execution_id, "ready")

    # -- the contract -----------------------------------------------------------------------------

    async def ask(self, verb: str, body: bytes, timeout: float = WAIT_S) -> Any:
        """Send raw bytes as a request. Return the raw reply message."""
        return await self.nats.request(VERBS[verb].subject(self.root), body, timeout=timeout)

    async def request(self, verb: str, body: Any = None, timeout: float = WAIT_S) -> Any:
        """Send a verb with a JSON body, as any client would. Raise PenstockError for a typed error."""
        reply = await self.ask(verb, msgspec.json.encode({} if body is None else body), timeout)
        answer = msgspec.json.decode(reply.data)
        if isinstance(answer, dict) and "error" in answer:
            raise from_body(answer["error"])
        return answer

    async def refused(self, verb: str, body: Any) -> PenstockError:
        """Send a request that must be refused. Return the error."""
        try:
            answer = await self.request(verb, body)
        except PenstockError as error:
            return error
        raise AssertionError(f"{verb} {body!r} was not refused: {answer!r}")

    async def waits(self, resource: str, id: str, timeout: float = WAIT_S) -> "asyncio.Task[Any]":
        """Let a caller wait for the end of an execution or a flow. Return his call once the scheduler has got it."""
        about = {f"{resource}_id": id}
        waiting = asyncio.create_task(self.request(f"{resource}.wait", {**about, "wait_ms": 60_000}, timeout))
        await asyncio.sleep(0)  # the request is sent
        await self.request(f"{resource}.get", about)  # sent after the wait and answered
        assert not waiting.done()
        return waiting

    async def keys(self) -> list[str]:
        """Return all keys in Valkey, on whichever server they are."""
        store = self.running["scheduler"].context.machine.store
        found = await store.execute_everywhere("KEYS", f"{self.root}:*")
        return [key.decode() for keys in found for key in keys]

    # -- shorthands -------------------------------------------------------------------------------

    async def create(self, **spec: Any) -> str:
        created = await self.request("execution.create", {"kind": "test.job", **spec})
        return created["execution_id"]

    async def get(self, execution_id: str) -> dict[str, Any]:
        return await self.request("execution.get", {"execution_id": execution_id})

    async def take(self, most: int = 1, **options: Any) -> list[dict[str, Any]]:
        """Return the tasks that worker `w1` gets now (leased, or running with start=True)."""
        body = {"worker_id": "w1", "max": most, "wait_ms": 5000, **options}
        return (await self.request("work.next", body))["tasks"]

    async def begin(self, **options: Any) -> dict[str, Any]:
        """Take one task and start it."""
        tasks = await self.take(1, start=True, **options)
        assert len(tasks) == 1, "there was no work"
        return tasks[0]

    async def until(
        self, look: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool], what: str = "a condition"
    ) -> Any:
        """Call `look` until `holds` accepts its result, and return that. Fail after a generous deadline."""
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while True:
            seen = await look()
            if holds(seen):
                return seen
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{what} did not come about; last seen: {seen!r}")
            await asyncio.sleep(0.01)

    async def reaches(self, execution_id: str, *states: str) -> dict[str, Any]:
        """Wait until the execution is in one of these states. Return its record."""
        return await self.until(
            lambda: self.get(execution_id), lambda record: record["state"] in states, f"state {states}"
        )

    def move_clock(self, ms: int) -> None:
        """Move the time of all services; their due loops run at once."""
        self.clock.move(ms)


def fence(task: dict[str, Any]) -> dict[str, Any]:
    """Return the fence of a task."""
    return {name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")}
