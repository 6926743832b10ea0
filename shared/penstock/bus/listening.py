"""Subscriptions whose messages are taken at once, in the tick in which they arrive."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from penstock.bus.connection import Connection
from penstock.bus.incoming import Take

log: Final = logging.getLogger("penstock.bus")

_UNSUBSCRIBE_S: Final = 5.0


async def listen(nats: Client, subject: str, take: Take, *, queue: str = "") -> Subscription:
    """Subscribe. `take` is called with each message and must not wait: it keeps the message, or starts a task.

    There are no pending limits: beyond them nats-py drops messages, and a dropped reply never arrives.
    """

    async def later(msg: Msg) -> None:
        take(msg)

    subscription = await nats.subscribe(  # pyright: ignore[reportUnknownMemberType] - nats-py leaves `future` open
        subject, queue=queue, cb=later, pending_msgs_limit=0, pending_bytes_limit=0
    )
    if isinstance(nats, Connection):  # another client calls `later`, a few ticks after the arrival
        nats.take_at_once(subscription, take)
    return subscription


def after_read(nats: Client, then: Callable[[], None]) -> None:
    """Call `then` once all messages that arrived together with the present one have been taken."""
    if isinstance(nats, Connection):
        nats.takers.after_read(then)
    else:
        asyncio.get_running_loop().call_soon(then)


async def unsubscribe(nats: Client, subscriptions: Sequence[Subscription]) -> None:
    """End subscriptions after their callbacks have received everything that the server had already sent.

    As `Subscription.drain` of nats-py for each, but with one round trip for all of them.
    """
    try:
        async with asyncio.timeout(_UNSUBSCRIBE_S):
            if nats.is_connected:
                for subscription in subscriptions:
                    await nats._send_unsubscribe(subscription._id)  # pyright: ignore[reportPrivateUsage]
                await nats.flush()
                for subscription in subscriptions:
                    await subscription._pending_queue.join()  # pyright: ignore[reportPrivateUsage]
    except (NatsError, TimeoutError) as error:
        log.debug("unsubscribing: %s", error)
    for subscription in subscriptions:
        with contextlib.suppress(NatsError):
            await subscription.unsubscribe()
