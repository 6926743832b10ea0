"""Reads whole JetStream streams through plain nats-py, by direct gets of many messages."""

import asyncio
import json
from dataclasses import dataclass, field

from nats.aio.client import Client
from nats.aio.msg import Msg

BATCH = 2000
WAIT_S = 10.0


@dataclass
class Copy:
    """A stream's messages so far, as (sequence, body, headers)."""

    name: str
    messages: list[tuple[int, bytes, dict[str, str]]] = field(default_factory=list)

    async def follow(self, nats: Client) -> int:
        """Read what is new. Return how many messages that were. Raise TimeoutError when NATS does not answer."""
        before = len(self.messages)
        while True:
            first = self.messages[-1][0] + 1 if self.messages else 1
            page = await _page(nats, self.name, first)
            self.messages += page
            if not page:
                return len(self.messages) - before


async def _page(nats: Client, stream: str, first: int) -> list[tuple[int, bytes, dict[str, str]]]:
    page: list[tuple[int, bytes, dict[str, str]]] = []
    ended = asyncio.Event()

    async def take(message: Msg) -> None:
        headers = message.headers or {}
        if "Nats-Sequence" in headers:
            page.append((int(headers["Nats-Sequence"]), message.data, headers))
        else:
            ended.set()

    inbox = nats.new_inbox()
    subscription = await nats.subscribe(inbox, cb=take, pending_msgs_limit=0, pending_bytes_limit=0)
    try:
        ask = json.dumps({"seq": first, "batch": BATCH}).encode()
        await nats.publish(f"$JS.API.DIRECT.GET.{stream}", ask, reply=inbox)
        async with asyncio.timeout(WAIT_S):
            await ended.wait()
    finally:
        await subscription.unsubscribe()
    return page


async def is_empty(nats: Client, stream: str) -> bool:
    """Return whether a stream holds no message: all of a work queue have been acknowledged."""
    answer = json.loads((await nats.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=WAIT_S)).data)
    return answer["state"]["messages"] == 0


async def all_handled(nats: Client, stream: str) -> bool:
    """Return whether every consumer of a stream has acknowledged all of its messages."""
    subject = f"$JS.API.CONSUMER.LIST.{stream}"
    answer = json.loads((await nats.request(subject, b"", timeout=WAIT_S)).data)
    return all(not each["num_pending"] and not each["num_ack_pending"] for each in answer["consumers"])
