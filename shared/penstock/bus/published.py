"""What is published for Penstock to apply (signals, observations), as JetStream hands it over: read in one way."""

from typing import NamedTuple

from nats.aio.msg import Msg

from penstock.bus.consumer import ACK, Dead, Outcome, Retry
from penstock.errors import PenstockError

RETRY_S = 1.0


class Published(NamedTuple):
    """A message, as far as every service wants to know of it."""

    subject: str
    """What is left of its subject behind the stream's own prefix."""
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes
    message_id: str
    """Its Nats-Msg-Id; of one that came without: its place in the stream, the same at every delivery."""
    published_at: int
    """Microseconds since the Unix epoch, by JetStream's clock."""


def read(message: Msg, prefix: str) -> Published:
    """The message, of a stream whose subjects begin with `prefix`."""
    headers = {name.lower(): value for name, value in (message.headers or {}).items()}
    place = f"{message.metadata.stream}-{message.metadata.sequence.stream}"
    return Published(
        message.subject.removeprefix(prefix),
        headers,
        message.data,
        headers.get("nats-msg-id") or place,
        int(message.metadata.timestamp.timestamp() * 1e6),
    )


def outcome(result: object) -> Outcome:
    """What becomes of a message with this result: an error that may pass brings it again, another one buries it."""
    if not isinstance(result, PenstockError):
        return ACK
    return Retry(RETRY_S) if result.retryable else Dead(f"{result.code}: {result.message}")
