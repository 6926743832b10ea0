"""Submits work to first_worker.py and waits for the result: `python examples/submit.py [address …]`."""

import asyncio
import sys

from penstock import Client


async def main(addresses: list[str]) -> None:
    async with await Client.connect("nats://localhost:4222") as client:
        runs = [
            await client.submit("mail.send", {"to": address, "subject": "hi"}, max_attempts=5)
            for address in addresses
        ]
        for run in runs:
            print(run.id, await run.result(timeout=30))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["ada@example.com"]))
