"""Step 1: a worker that prices orders."""

from msgspec import Struct

from penstock import Fail, Task, Worker

worker = Worker("nats://localhost:4222")

CENTS = {"book": 12_00, "pen": 2_50}


class Line(Struct):
    item: str
    pieces: int = 1


@worker.handler("order.price")
async def price(task: Task, lines: list[Line]) -> int:
    """Return what an order costs, in cents."""
    for line in lines:
        if line.item not in CENTS:
            raise Fail(f"there is no {line.item!r}", "unknown_item")
    return sum(CENTS[line.item] * line.pieces for line in lines)


if __name__ == "__main__":
    worker.main()
