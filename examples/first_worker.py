"""A first worker: `python examples/first_worker.py`, with `penstock up --nats-port 4222` running.

Start it twice, and the two share the work. Kill one in the midst of it, and the other takes over.
"""

import asyncio
import os

from msgspec import Struct

from penstock import Retry, Task, Worker

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")

worker = Worker(NATS_URL, lanes=["default"], concurrency=32)


class Receipt(Struct):
    to: str
    attempt: int


@worker.handler("mail.send")
async def send(task: Task, to: str, subject: str) -> Receipt:
    """The input's fields are the parameters; what is returned is the result."""
    if "@" not in to:
        raise Retry(f"{to} is no address yet", after=2)  # anything else that is raised is a failure too
    await asyncio.sleep(0.5)  # here the mail would go out
    print(f"to {to}: {subject}")
    return Receipt(to=to, attempt=task.attempt_index)


if __name__ == "__main__":
    worker.main()
