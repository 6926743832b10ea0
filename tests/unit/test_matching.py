"""work.next under bad timing: an error in a round, a concurrent sweep, a slow limit."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Raw

from penstock.bus.calls import Call
from penstock.errors import PenstockError, make
from penstock.machine.ops.scheduler import Create, Given, Granted, HandOut, Task
from penstock.messages.executions import ExecutionSpec, WorkNext
from penstock_scheduler.handing_out.eager import Eager
from penstock_scheduler.handing_out.work import Work

DEADLINE_S = 60.0
TASK = Task(
    execution_id="0-1",
    kind="t",
    lane="default",
    attempt_index=1,
    attempt_id="a",
    lease_id="l",
    lease_epoch=1,
    lease_expires_at=0,
)


class Answers:
    """A fake of the state machine that `Work` asks: `reply(orders) -> replies` answers the operations."""

    def __init__(self, reply: Callable[[list[Any]], Awaitable[list[Any]]]) -> None:
        self.partitions = 1
        self.asked = 0
        self.reply = reply

    async def run_many(self, ops: list[Any], at: list[int] | None = None) -> list[Any]:
        self.asked += 1
        return await self.reply(ops)


class Admission:
    """A fake admission that admits all grants once `gate(grants)` returns."""

    def __init__(self) -> None:
        self.gate: Callable[[list[Any]], Awaitable[None]] = lambda _grants: asyncio.sleep(0)

    async def admit(self, partition: int, grants: list[Any]) -> list[Any]:
        await self.gate(grants)
        return grants


class Handover:
    async def answer(self, reply_to: str, tasks: list[Any]) -> bool:
        return True


def work(store: Answers, admission: Admission | None = None) -> Work:
    return Work(store, admission or Admission(), Handover())  # pyright: ignore[reportArgumentType]


async def ask(work: Work, worker: str = "w1", wait_ms: int = 30_000) -> Any:
    return await work.next(Call([WorkNext(worker_id=worker, wait_ms=wait_ms)], "inbox", True))


def empty(orders: list[Any]) -> list[Any]:
    return [Given([[] for _ in each.takers], [[] for _ in each.takers]) for each in orders]


async def test_a_bug_in_a_round_answers_those_it_was_for_and_the_next_are_served() -> None:
    broken = True

    async def reply(orders: list[Any]) -> list[Any]:
        if broken:
            raise RuntimeError("a bug")
        return [Given([[TASK]], [[]]) for _ in orders]

    matching = work(Answers(reply))
    async with asyncio.timeout(DEADLINE_S):
        [error] = await ask(matching)
        assert isinstance(error, PenstockError)
        assert error.code == "internal"
        broken = False
        assert await ask(matching) is None  # None: answered with tasks


async def test_news_beside_a_sweep_are_not_lost() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    again = asyncio.Event()

    async def reply(orders: list[Any]) -> list[Any]:
        if asked.is_set():
            again.set()
            return empty(orders)
        asked.set()
        await answer.wait()
        return empty(orders)

    matching = work(Answers(reply))
    matching.ready(0, {"default|*": 1})
    waiting = asyncio.create_task(ask(matching))
    async with asyncio.timeout(DEADLINE_S):
        await asked.wait()
        matching.forget()  # as a sweep does
        matching.ready(0, {"default|*": 1})
        answer.set()
        await again.wait()
        await matching.drain()
        assert await waiting == [{"tasks": []}]


async def test_a_slow_limit_of_another_partition_keeps_nobody_else_waiting() -> None:
    async def reply(orders: list[Any]) -> list[Any]:
        [order] = orders
        grants = [[Granted("grant", taker.worker_id, False, False, 0)] for taker in order.takers]
        return [Given([[] for _ in grants], grants)]

    served = asyncio.Event()
    admission = Admission()

    async def gate(grants: list[Any]) -> None:
        """Hold the first grant back until the second one is admitted."""
        if grants[0].execution_id == "first":
            await served.wait()
        else:
            served.set()

    admission.gate = gate
    store = Answers(reply)
    matching = work(store, admission)
    claimed: list[Any] = []

    async def claim(request: WorkNext, grants: list[Any]) -> list[Any]:
        claimed.append(request.worker_id)
        return [TASK]

    matching._claim = claim  # pyright: ignore
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(ask(matching, "first"), ask(matching, "second")) == [None, None]
    assert claimed == ["second", "first"]


def creator(reply: Callable[[list[Any]], Awaitable[list[Any]]]) -> tuple[Work, Eager]:
    store = Answers(reply)
    matching = work(store)
    return matching, Eager(store, matching)  # pyright: ignore[reportArgumentType]


def creating() -> Create:
    spec = ExecutionSpec(kind="t", raw_input=Raw(b"1"))
    return Create(id="0-0190c42a-0000-7000-8000-000000000000", namespace="n", spec=spec)


async def test_a_call_whose_execution_was_not_made_goes_on_waiting() -> None:
    """The worker that an execution was meant for gets other work, also what was announced while it was out of line."""
    asked, announced = asyncio.Event(), False

    async def reply(orders: list[Any]) -> list[Any]:
        nonlocal announced
        if isinstance(orders[0], HandOut):
            asked.set()
            return [Given([[TASK]], [[]])] if announced else empty(orders)
        assert [order.taker.worker_id for order in orders] == ["w1"]
        announced = True
        matching.ready(0, {"default|t": 1})
        return [make("valkey_unavailable")]

    matching, eager = creator(reply)
    waiting = asyncio.create_task(ask(matching))
    async with asyncio.timeout(DEADLINE_S):
        await asked.wait()
        [error] = await eager.create([creating()])
        assert isinstance(error, PenstockError)
        assert await waiting is None


async def test_a_service_that_stops_leaves_no_call_behind() -> None:
    asked, made = asyncio.Event(), asyncio.Event()

    async def reply(orders: list[Any]) -> list[Any]:
        if isinstance(orders[0], HandOut):
            asked.set()
            return empty(orders)
        made.set()
        await asyncio.Event().wait()
        return []

    matching, eager = creator(reply)
    waiting = asyncio.create_task(ask(matching))
    async with asyncio.timeout(DEADLINE_S):
        await asked.wait()
        making = asyncio.create_task(eager.create([creating()]))
        await made.wait()
        await matching.drain()
        making.cancel()
        assert await waiting == [{"tasks": []}]
