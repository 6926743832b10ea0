"""Dead letters: copies of messages that can never be applied, with the reason, for people to look at."""

from typing import Final, NamedTuple

from nats.aio.msg import Msg

REASON: Final = "Penstock-Dead-Reason"
# A published signal's token must never be kept anywhere but in the message that carries it.
_SECRET_HEADERS: Final = frozenset({"penstock-token"})
_HEADER_ROOM: Final = 4096


class Letter(NamedTuple):
    """A dead letter, to be published."""

    subject: str
    body: bytes
    headers: dict[str, str]


def dead_letter(msg: Msg, reason: str, consumer: str, root: str, max_payload: int) -> Letter:
    """Make the dead letter of a stream's message. The body is left out where it does not fit into `max_payload` bytes.

    The letter's `Nats-Msg-Id` follows from the message, so that a second copy of it is not stored.
    """
    metadata = msg.metadata
    headers = {
        name: value
        for name, value in (msg.headers or {}).items()
        if name.lower() not in _SECRET_HEADERS and not name.lower().startswith("nats-")
    }
    headers[REASON] = " ".join(reason.split())[:1024]
    headers["Nats-Msg-Id"] = f"{consumer}-{metadata.sequence.stream}-{int(metadata.timestamp.timestamp())}"
    if original := (msg.headers or {}).get("Nats-Msg-Id"):
        headers["Penstock-Message-Id"] = original
    body = msg.data
    if len(body) + sum(map(len, headers.values())) + _HEADER_ROOM > max_payload:
        headers["Penstock-Dead-Size"] = str(len(body))
        body = b""
    return Letter(f"{root}.dead.{msg.subject.removeprefix(root + '.')}", body, headers)
