"""Ids: `<partition>-<uuid7>` (contract §1). The partition makes an id find its own shard."""

import os
import time
import zlib
from typing import Final

UUID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?!\n)$"
ID_PATTERN: Final = UUID_PATTERN.replace("^", "^[0-9]{1,5}-")
TOKEN_PATTERN: Final = r"^[A-Za-z0-9_-]{1,128}(?!\n)$"  # noqa: S105 - a NATS subject token, not a secret
KIND_PATTERN: Final = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(?!\n)$"

_last_ms = 0
_counter = 0


def uuid7() -> str:
    """A version 7 UUID (RFC 9562 §5.7) that grows within this process.

    Method 1 of §6.2: the 12 bits after the timestamp are a counter, so that ids made in one
    millisecond sort in the order in which they were made; the counter running over borrows the
    next millisecond.
    """
    global _last_ms, _counter
    now = time.time_ns() // 1_000_000
    if now > _last_ms:
        _last_ms, _counter = now, 0
    else:
        _counter += 1
        if _counter > 0xFFF:
            _last_ms, _counter = _last_ms + 1, 0
    tail = os.urandom(8).hex()
    stamp = f"{_last_ms:012x}"
    variant = "89ab"[int(tail[0], 16) & 3]
    return f"{stamp[:8]}-{stamp[8:]}-7{_counter:03x}-{variant}{tail[1:4]}-{tail[4:]}"


def new_id(partition: int) -> str:
    """A new id in this partition."""
    return f"{partition}-{uuid7()}"


def partition_of(entity_id: str) -> int:
    """The partition that an id (already checked against ID_PATTERN) names."""
    return int(entity_id[: entity_id.index("-")])


def partition_for(name: str, partitions: int) -> int:
    """The partition where something that is found by name (an idempotency key, a lane) lives."""
    return zlib.crc32(name.encode()) % partitions
