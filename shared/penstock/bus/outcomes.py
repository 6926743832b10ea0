"""What becomes of a message that a consumer has handled."""

from typing import Final

from msgspec import Struct


class Ack(Struct, frozen=True):
    """The message was applied: it leaves the stream."""


class Retry(Struct, frozen=True):
    """The message cannot be applied now: it is redelivered after `delay` seconds."""

    delay: float = 1.0


class Dead(Struct, frozen=True):
    """The message can never be applied: it goes to the dead letters with this reason, which must hold no secret."""

    reason: str


ACK: Final = Ack()
Outcome = Ack | Retry | Dead
