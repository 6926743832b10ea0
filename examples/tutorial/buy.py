"""Step 1: submits orders from a program, and waits for their prices."""

import asyncio
import os

from penstock import Client, ExecutionFailed

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")


async def main() -> None:
    async with await Client.connect(NATS_URL) as client:
        for items in (["book", "pen"], ["book", "unicorn"]):
            run = await client.submit("order.price", {"lines": [{"item": item} for item in items]})
            try:
                print(run.execution_id, await run.result(timeout=30, type=int), "cents")
            except ExecutionFailed as error:
                print(error.category, error.reason)


if __name__ == "__main__":
    asyncio.run(main())
