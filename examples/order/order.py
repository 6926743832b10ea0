"""An order as a durable function: charge, stock, approval, shipping; and what is undone if it fails.

Run `penstock up` and then this. Wherever the worker dies, another one goes on there.
"""

from datetime import timedelta

import msgspec

from penstock import Fail, Retries, Task, Worker

worker = Worker("nats://localhost:4222")

CHEAP_CENTS = 100_00


class Order(msgspec.Struct):
    id: str
    items: list[str]
    cents: int


class Receipt(msgspec.Struct):
    order: str
    payment: str
    parcel: str


# What these do belongs to your payment provider and your warehouse. All are told a key, so that a repeat does no harm.


def charge(order: Order, idempotency_key: str) -> str:
    return f"payment-{order.id}"


def refund(order: Order) -> None: ...


def reserve(item: str) -> None:
    if item == "sold out":
        raise Fail(f"{item!r} cannot be had", "out_of_stock")


def release(item: str) -> None: ...


def ship(order: Order) -> str:
    return f"parcel-{order.id}"


@worker.handler("order", version="1")
async def order(task: Task, order: Order) -> Receipt:
    task.state["stage"] = "paying"
    task.compensate("refund", refund, order)
    payment = await task.step(
        "charge", charge, order, str(task.uuid("charge")), retry=Retries(5, backoff=2.0)
    )

    task.state["stage"] = "reserving"
    for item in order.items:
        task.compensate("release", release, item, key=item)
    await task.parallel(*(task.step("reserve", reserve, item, key=item) for item in order.items))

    if order.cents > CHEAP_CENTS:
        task.state["stage"] = "waiting for approval"
        approval = await task.wait_signal("approved", timeout=timedelta(days=3), default=None)
        if approval is None or not approval.payload:
            raise Fail("nobody has approved", "not_approved")

    task.state["stage"] = "shipping"
    await task.sleep("cool-off", timedelta(hours=24))
    parcel = await task.step("ship", ship, order)
    return Receipt(order.id, payment, parcel)


if __name__ == "__main__":
    worker.main()
