"""Payloads that only this program reads: `python examples/encrypted.py`, with `penstock up --nats-port 4222` running.

A real client and its workers are several programs that have the same keys. PAYLOAD_KEY is 32 bytes in base64.
"""

import asyncio
import base64
import os

from penstock import Client, Worker
from penstock.codecs import AesGcm, Offload

NATS_URL = os.environ.get("PENSTOCK_NATS_URL", "nats://localhost:4222")
ROOT = os.environ.get("PENSTOCK_ROOT", "penstock")

given = os.environ.get("PAYLOAD_KEY")
key = base64.b64decode(given) if given else AesGcm.new_key()
codec = [AesGcm("2026-11", {"2026-11": key}), Offload(limit=100_000)]

worker = Worker(NATS_URL, root=ROOT, codec=codec)


@worker.handler("card.charge")
async def charge(number: str, receipt: str) -> str:
    return f"charged {number[-4:]}, {len(receipt)} bytes of receipt"


async def main() -> None:
    async with await Client.connect(NATS_URL, root=ROOT, codec=codec) as client:
        working = asyncio.create_task(worker.run())
        run = await client.submit("card.charge", {"number": "4111 1111", "receipt": "x" * 2_000_000})
        print(await run.result(timeout=30))
        worker.stop()
        await working
    async with await Client.connect(NATS_URL, root=ROOT) as nobody:
        print("what the services have:", (await nobody.get(run.execution_id)).input)


if __name__ == "__main__":
    asyncio.run(main())
