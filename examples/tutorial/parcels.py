"""Step 2: work that fails, and a worker that dies."""

import asyncio

from penstock import Retry, Task, Worker

# Leases of three seconds: a dead worker's work is taken over that soon. The default is 30 s.
worker = Worker("nats://localhost:4222", lease_ttl=3.0)


@worker.handler("parcel.label")
async def label(task: Task, address: str) -> str:
    """Print a label. The printer is out of paper at the first two attempts."""
    if task.attempt_index < 3:
        raise Retry("out of paper", category="printer")
    return f"label for {address}"


@worker.handler("parcel.pack")
async def pack(task: Task, items: list[str]) -> str:
    """Pack for five seconds an item."""
    for done, item in enumerate(items):
        await task.progress(100 * done / len(items), f"packing the {item}")
        await asyncio.sleep(5)
    return f"{len(items)} items, packed by {task.lease_epoch}"


if __name__ == "__main__":
    worker.main()
