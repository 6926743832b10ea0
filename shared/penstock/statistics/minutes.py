"""What happened in one minute, in one lane or in all, as it is kept in Valkey: JSON that nobody parses there."""

from typing import Final

import msgspec
from msgspec import Struct, field

from penstock.statistics.sketch import Sketch

MINUTE_MS: Final = 60_000
KEPT: Final = 1440
"""So many minutes are kept: a day."""
EVERY_LANE: Final = "*"
"""Stands for all lanes together, where a lane's name would be. No lane has this name."""


class Minute(Struct, array_like=True):
    """minute: minutes since the Unix epoch. The other fields are those of `penstock.messages.statistics.Counts`."""

    minute: int
    created: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0
    retried: int = 0
    reclaimed: int = 0
    wait: Sketch = field(default_factory=Sketch)
    run: Sketch = field(default_factory=Sketch)

    def merge(self, other: "Minute") -> None:
        self.created += other.created
        self.started += other.started
        self.completed += other.completed
        self.failed += other.failed
        self.canceled += other.canceled
        self.retried += other.retried
        self.reclaimed += other.reclaimed
        self.wait.merge(other.wait)
        self.run.merge(other.run)


_encoder: Final = msgspec.json.Encoder()
decode: Final = msgspec.json.Decoder(Minute).decode


def encode(minute: Minute) -> str:
    return _encoder.encode(minute).decode()
