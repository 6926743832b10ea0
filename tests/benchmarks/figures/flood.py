"""A program of its own that publishes signals as fast as it can: `flood <nats url> <JSON>`.

The JSON has `count` and `to`, a list of [waitpoint_id, token] that get the signals in turn. The program prints a JSON
line when it begins, and another one when all signals are published.
"""

import asyncio
import json
import sys
from typing import Final

from penstock import Client

WINDOW: Final = 64
"""Publishes that are not acknowledged yet, at most."""


async def main(url: str, count: int, to: list[tuple[str, str]]) -> None:
    async with await Client.connect(url) as client:
        window = asyncio.Semaphore(WINDOW)

        async def publish(n: int) -> None:
            async with window:
                waitpoint_id, token = to[n % len(to)]
                await client.publish_signal(waitpoint_id, "vote", token, {"n": n})

        print(json.dumps({"begun": count}), flush=True)
        await asyncio.gather(*map(publish, range(count)))
        print(json.dumps({"published": count}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], **json.loads(sys.argv[2])))
