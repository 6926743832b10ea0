"""Step 4: approves a refund, as whoever has its token may: `python approve.py EXECUTION_ID`."""

import asyncio
import os
import sys

from penstock import Client

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")


async def main(execution_id: str) -> None:
    async with await Client.connect(NATS_URL) as client:
        [token] = [frame.payload async for frame in client.frames(execution_id)]
        answer = await client.signal(token, "decision", {"approved": True, "by": "Grace"})
        print(answer.effect)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
