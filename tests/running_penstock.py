"""A whole Penstock inside a test (`penstock.testing`), spoken to over NATS only."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from penstock.errors import PenstockError, from_body
from penstock.runtime.running import Running
from penstock.testing import Penstock
from penstock.verbs import VERBS

WAIT_S = 20.0
"""A deadline for things that take milliseconds: machines are noisy."""
NOWHERE = "0-00000000-0000-7000-8000-000000000000"
"""An id of nothing."""


class RunningPenstock(Penstock):
    """`request` speaks the contract; `move_clock` moves the time of every service."""

    @property
    def running(self) -> dict[str, Running]:
        """The services that run, by name."""
        return self.services

    @property
    def skew_ms(self) -> int:
        """How far the clock was moved."""
        return self.clock.offset_ms

    @skew_ms.setter
    def skew_ms(self, ms: int) -> None:
        self.clock.offset_ms = ms

    async def start_again(self, name: str) -> None:
        """A service that the test has stopped."""
        await self.start_service(name)

    async def loses_its_lease(self, execution_id: str) -> None:
        """A minute passes; its lease runs out, and it is back in its queue."""
        self.move_clock(60_000)
        await self.reaches(execution_id, "ready")

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
        self.clock.move(ms)


def fence(task: dict[str, Any]) -> dict[str, Any]:
    """The fence of a task."""
    return {name: task[name] for name in ("execution_id", "attempt_index", "lease_id", "lease_epoch")}
