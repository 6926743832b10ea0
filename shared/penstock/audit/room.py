"""How full the audit stream is: beyond its bounds the oldest events go, and somebody should know before."""

from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import Struct
from nats.aio.client import Client

NEARLY_FULL: Final = 0.8
_TIMEOUT_S: Final = 5.0


class Room(Struct):
    """What the stream holds and may hold. A bound of 0 or less is none. `age_s`: of the oldest event, in seconds."""

    bytes: int
    max_bytes: int
    age_s: float
    max_age_s: float
    first_seq: int

    @property
    def full(self) -> float:
        """The share of its bound that is used up, of bytes or age, whichever is more: 1.0 when the oldest go."""
        by_bytes = self.bytes / self.max_bytes if self.max_bytes > 0 else 0.0
        return max(by_bytes, self.age_s / self.max_age_s if self.max_age_s > 0 else 0.0)

    def warning(self) -> str:
        """Return what to do if events will soon go, or go already; else an empty string."""
        if self.full < NEARLY_FULL:
            return ""
        by_age = self.max_age_s > 0 and self.age_s / self.max_age_s >= self.full
        setting = "PENSTOCK_AUDIT_MAX_AGE_MS" if by_age else "PENSTOCK_AUDIT_MAX_BYTES"
        what = "loses its oldest events" if self.first_seq > 1 else "will soon lose its oldest events"
        return (
            f"the audit trail is {self.full:.0%} full and {what}: raise {setting}, or keep a copy elsewhere"
        )


class _State(Struct):
    bytes: int
    messages: int
    first_seq: int
    first_ts: datetime


class _Config(Struct):
    max_bytes: int = -1
    max_age: int = 0


class _Info(Struct):
    state: _State | None = None
    config: _Config = msgspec.field(default_factory=_Config)


_decode: Final = msgspec.json.Decoder(_Info).decode


async def room(nats: Client, stream: str) -> Room | None:
    """Look how full a stream is; None if there is no such stream. Raise a NATS error or TimeoutError."""
    info = _decode((await nats.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=_TIMEOUT_S)).data)
    state, config = info.state, info.config
    if state is None:
        return None
    age = (datetime.now(UTC) - state.first_ts).total_seconds() if state.messages else 0.0
    return Room(state.bytes, config.max_bytes, max(age, 0.0), config.max_age / 1e9, state.first_seq)
