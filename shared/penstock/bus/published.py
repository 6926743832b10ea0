"""Read published messages (signals, observations) from JetStream, in the same way for every service."""

from typing import NamedTuple

from nats.aio.msg import Msg

from penstock.bus.outcomes import ACK, Dead, Outcome, Retry
from penstock.errors import PenstockError

RETRY_S = 1.0


class Published(NamedTuple):
    """The parts of a published message that services use."""

    subject: str
    """The subject without the stream's prefix."""
    headers: dict[str, str]
    """The headers, their names in lower case."""
    body: bytes
    message_id: str
    """The Nats-Msg-Id; without one, `<stream>-<stream sequence>`, which is the same at every delivery."""
    published_at: int
    """When JetStream stored the message: microseconds since the Unix epoch."""


def read(message: Msg, prefix: str) -> Published:
    """Read a message of a stream whose subjects begin with `prefix`."""
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
    """Return the outcome for a result: retry after a retryable error, dead letter after any other, else ack."""
    if not isinstance(result, PenstockError):
        return ACK
    return Retry(RETRY_S) if result.retryable else Dead(f"{result.code}: {result.message}")
