"""What durable calls give, as a type checker sees it. Nothing here runs: `make lint` checks it with pyright."""

from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import assert_type
from uuid import UUID

from penstock import ChildRun, Retries, Signal, SyncTask, Task, Won


class Receipt:
    """A result with a type of its own."""


async def load(order: str, deep: bool = False) -> Receipt:
    return Receipt()


def count(receipt: Receipt) -> int:
    return 1


async def handler(task: Task) -> None:
    receipt = assert_type(await task.step("load", load, "o1"), Receipt)
    assert_type(await task.step("load", load, "o1", True, key=7), Receipt)
    assert_type(await task.step("count", count, receipt, retry=Retries(3, backoff=2.0)), int)
    assert_type(await task.step("load", partial(load, deep=True), "o1", once=True), Receipt)
    await task.step("load", load, 7)  # pyright: ignore[reportArgumentType, reportCallIssue]
    await task.step("load", load)  # pyright: ignore[reportArgumentType, reportCallIssue]
    task.compensate("undo", count, receipt)
    task.compensate("undo", count, "no receipt")  # pyright: ignore[reportArgumentType]

    assert_type(await task.sleep("cool-off", timedelta(days=1)), None)
    assert_type(await task.wait_signal("approved"), Signal)
    assert_type(await task.wait_signal("approved", timeout=5, default=None), Signal | None)
    assert_type(await task.wait_event("paid", "o1"), Signal)
    assert_type(await task.wait_event("paid", "o1", timeout=5, default=None), Signal | None)
    assert_type(await task.wait_signals("votes", {"count": 2, "of": [{"name": "vote"}]}), list[Signal])

    assert_type(await task.child("invoice", "invoice.make", type=Receipt), Receipt)
    assert_type(await task.spawn("invoice", "invoice.make", {"order": 1}, type=Receipt), ChildRun[Receipt])
    beside = await task.spawn("invoice", "invoice.make", type=Receipt)
    assert_type(await beside.result(), Receipt)

    two = await task.parallel(task.step("load", load, "o1"), task.step("count", count, receipt))
    assert_type(two, tuple[Receipt, int])
    many = await task.parallel(*(task.step("count", count, receipt, key=n) for n in range(9)))
    assert_type(many, tuple[int, ...])
    winner = await task.first(
        "race", one=task.step("one", count, receipt), two=task.step("two", count, receipt)
    )
    assert_type(winner, Won[int])
    assert_type(winner.value, int)

    assert_type(await task.now(), datetime)
    assert_type(task.uuid("charge"), UUID)
    assert_type(task.random("dice"), Random)
    assert_type(task.began("3"), bool)


def sync_handler(task: SyncTask) -> None:
    assert_type(task.step("count", count, Receipt()), int)
    assert_type(task.wait_signal("approved", default=None), Signal | None)
    assert_type(task.wait_event("paid", "o1"), Signal)
    assert_type(task.parallel(task.aio.step("load", load, "o1")), tuple[Receipt, ...])
