"""Step 3: an order as a durable function, which goes on where it was."""

from datetime import timedelta

from msgspec import Struct

from penstock import Fail, Retries, Task, Worker

worker = Worker("nats://localhost:4222", lease_ttl=3.0)


class Order(Struct):
    id: str
    items: list[str]
    cents: int


# These belong to your bank and your warehouse. Each is told a key, so that a repeat does no harm.


def charge(order: Order, key: str) -> str:
    print(f"{order.id}: charge {order.cents} cents")
    return f"payment-{order.id}"


def refund(order: Order) -> None:
    print(f"{order.id}: refund {order.cents} cents")


def reserve(item: str) -> None:
    print(f"reserve a {item}")
    if item == "unicorn":
        raise Fail("there are no unicorns", "out_of_stock")


def ship(order: Order) -> str:
    print(f"{order.id}: ship")
    return f"parcel-{order.id}"


@worker.handler("order.handle")
async def handle(task: Task, order: Order) -> str:
    """Charge, reserve all items, wait until the money is there, ship."""
    task.state["stage"] = "paying"
    task.compensate("refund", refund, order)  # runs only if the order fails or is canceled
    payment = await task.step(
        "charge", charge, order, str(task.uuid("charge")), retry=Retries(5, backoff=2.0)
    )

    task.state["stage"] = "reserving"
    await task.parallel(*(task.step("reserve", reserve, item, key=item) for item in order.items))

    task.state["stage"] = "waiting for the money"
    await task.sleep("money", timedelta(hours=1))
    parcel = await task.step("ship", ship, order)
    return f"{payment}, {parcel}"


if __name__ == "__main__":
    worker.main()
