"""Messages that leave at the end of the tick, without a coroutine or a task for each."""

from nats.aio.client import Client

from penstock.bus.connection import Connection


def post(nats: Client, subject: str, body: bytes, reply: str = "") -> bool:
    """Publish a message without waiting. The subjects are not checked: they must be Penstock's, or have come from NATS.

    Return False if that is not possible now, because the server is away or reads too slowly, or the message is too
    large: `nats.publish` then waits, or says why not.
    """
    return isinstance(nats, Connection) and nats.post(subject, body, reply)


async def send(
    nats: Client, subject: str, body: bytes, reply: str = "", headers: dict[str, str] | None = None
) -> None:
    """Publish a message, and wait only where `post` is not possible. Raise NatsError."""
    if headers or not post(nats, subject, body, reply):
        await nats.publish(subject, body, reply, headers)


def write(nats: Client) -> None:
    """Let what was posted leave now, where the tick is at its end: else that takes one more turn of the event loop."""
    if isinstance(nats, Connection):
        nats.write()
