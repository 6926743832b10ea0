"""A first worker: `python examples/first_worker.py`, with `penstock up --nats-port 4222` running.

Start this program twice, and the two workers share the tasks. Kill one while it runs a task, and the other takes over.
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
    """Send a mail. The input's fields become the parameters, and the return value is the execution's result."""
    if "@" not in to:
        raise Retry(f"{to} is no address yet", after=2)  # any other exception fails the attempt too
    await asyncio.sleep(0.5)  # a real handler would send the mail here
    print(f"to {to}: {subject}")
    return Receipt(to=to, attempt=task.attempt_index)


if __name__ == "__main__":
    worker.main()
