"""Helpers that run a service's endpoints and consumers inside a test."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import nats.js.api
from nats.aio.client import Client

from penstock import errors, verbs
from penstock.bus import streams
from penstock.bus.calls import Call, Handler
from penstock.bus.consumer import Consumer
from penstock.bus.endpoints import Endpoints
from penstock.bus.outcomes import ACK, Dead, Outcome, Retry

DEADLINE_S = 60.0


ID = "3-0192e4a0-0000-7000-8000-000000000000"


FENCE = {"execution_id": ID, "attempt_index": 0, "lease_id": "l", "lease_epoch": 1}


@asynccontextmanager
async def serving(
    client: Client, root: str, handlers: dict[verbs.Verb, Handler], **options
) -> AsyncIterator[Endpoints]:
    endpoints = Endpoints(client, "test", handlers, root=root, **options)
    await endpoints.start()
    try:
        yield endpoints
    finally:
        await endpoints.drain(5)


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.005)


async def ask(client: Client, root: str, verb: verbs.Verb, body: object) -> tuple[object, dict[str, str]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    msg = await client.request(verb.subject(root), data, timeout=DEADLINE_S)
    return json.loads(msg.data), msg.headers or {}


async def echo(call: Call) -> list[dict]:
    return [{"state": item.lease_id} for item in call.items]


class Collector:
    """A consumer's handler that keeps each message it gets; the message's data says which outcome to return."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.batches: list[int] = []

    async def __call__(self, messages: list[nats.aio.msg.Msg]) -> list[Outcome]:
        self.batches.append(len(messages))
        return [self._one(msg) for msg in messages]

    def _one(self, msg: nats.aio.msg.Msg) -> Outcome:
        self.seen.append(msg.data)
        if msg.data == b"dead":
            return Dead("never\nwanted")
        if msg.data == b"again" and self.seen.count(b"again") < 3:
            return Retry(0.01)
        if msg.data == b"poison":
            raise errors.make("invalid_token")
        if msg.data == b"bug" and self.seen.count(b"bug") < 4:
            raise RuntimeError("not this time")
        return ACK


@asynccontextmanager
async def consuming(client: Client, root: str, handler=None, **options) -> AsyncIterator[Collector]:
    collector = handler or Collector()
    await streams.ensure(client.jetstream(), root)
    consumer = Consumer(streams.SIGNALS, "router", collector, **options)
    await consumer.start(client, root)
    try:
        yield collector
    finally:
        await consumer.stop()


async def left(client: Client, root: str, stream: str = streams.SIGNALS) -> int:
    info = await client.jetstream().stream_info(streams.stream_name(root, stream))
    return info.state.messages


def is_left(client: Client, root: str, count: int, stream: str = streams.SIGNALS):
    async def check() -> bool:
        return await left(client, root, stream) == count

    return check
