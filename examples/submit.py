"""Submits work to first_worker.py and waits for the result: `python examples/submit.py [address …]`."""

import asyncio
import os
import sys

from penstock import Client, ExecutionFailed

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")


async def main(addresses: list[str]) -> None:
    async with await Client.connect(NATS_URL) as client:
        runs = [
            await client.submit("mail.send", {"to": address, "subject": "hi"}, max_attempts=5)
            for address in addresses
        ]
        for run in runs:
            try:
                print(run.execution_id, await run.result(timeout=30))
            except ExecutionFailed as error:
                print(error)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["ada@example.com"]))
