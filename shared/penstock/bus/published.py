"""Read published messages (signals, observations) from JetStream, in the same way for every service."""

from typing import Final, NamedTuple

from nats.aio.msg import Msg

from penstock.bus.outcomes import ACK, Dead, Outcome, Retry
from penstock.errors import PenstockError

RETRY_S = 1.0
_PLAIN: Final = 9
"""The tokens of a reply subject without domain and account."""


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


class Place(NamedTuple):
    """Where JetStream has stored a message, and when."""

    stream: str
    seq: int
    at: int
    """Microseconds since the Unix epoch."""


def place_of(message: Msg) -> Place:
    """Read the place of a message in its reply subject, of which nats-py's `metadata` makes more than is needed here.

    `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<deliveries>.<seq>.<consumer's seq>.<ns>.<pending>` (NATS ADR-15).
    """
    tokens = message.reply.split(".")
    first = 2 if len(tokens) == _PLAIN else 4
    return Place(tokens[first], int(tokens[first + 3]), int(tokens[first + 5]) // 1000)


def read(message: Msg, prefix: str) -> Published:
    """Read a message of a stream whose subjects begin with `prefix`."""
    headers = {name.lower(): value for name, value in (message.headers or {}).items()}
    place = place_of(message)
    return Published(
        message.subject.removeprefix(prefix),
        headers,
        message.data,
        headers.get("nats-msg-id") or f"{place.stream}-{place.seq}",
        place.at,
    )


def outcome(result: object) -> Outcome:
    """Return the outcome for a result: retry after a retryable error, dead letter after any other, else ack."""
    if not isinstance(result, PenstockError):
        return ACK
    return Retry(RETRY_S) if result.retryable else Dead(f"{result.code}: {result.message}")
