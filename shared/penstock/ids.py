"""Ids: `<partition>-<uuid7>` (contract §1). An id names the partition that keeps its entity."""

import os
import re
import time
import zlib
from typing import Final

UUID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?!\n)$"
ID_PATTERN: Final = UUID_PATTERN.replace("^", "^[0-9]{1,5}-")
TOKEN_PATTERN: Final = r"^[A-Za-z0-9_-]{1,128}(?!\n)$"  # noqa: S105 - a NATS subject token, not a secret
WORKER_OF: Final = "--"
"""In a secured deployment, the id of a worker is `<user>--<name>`."""
KIND_PATTERN: Final = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(?!\n)$"
KINDS_PATTERN: Final = KIND_PATTERN.replace("(?!", r"(\.\*|@[A-Za-z0-9_.-]+)?(?!")
"""A kind, a prefix of kinds (`mail.*`), or a kind whose executions are pinned to a version (`order@2`)."""
TRACEPARENT_PATTERN: Final = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?!\n)$"
"""The header `traceparent` of W3C Trace Context."""
IN_WORDS: Final = {
    TOKEN_PATTERN: "a name of A-Z a-z 0-9 _ - with up to 128 characters",
    KIND_PATTERN: "names of A-Z a-z 0-9 _ - joined by dots",
    KINDS_PATTERN: "a kind, or a prefix such as mail.*",
    ID_PATTERN: "an id such as 0-01976d02-5f35-7000-8000-000000000000",
    UUID_PATTERN: "a cursor, as the last page gave it",
    TRACEPARENT_PATTERN: "a traceparent (W3C Trace Context)",
}
"""What each pattern stands for, for people."""


def in_words(message: str) -> str:
    """Return a validation error's message with patterns replaced by what they stand for."""
    if "matching regex" in message:
        for pattern, words in IN_WORDS.items():
            message = message.replace(f"`str` matching regex {pattern!r}", words)
    return message


_DRAWN: Final = 256
"""Of how many ids the chance is drawn at once: a system call for each would be a third of what an id costs."""
_chances: Final[list[str]] = []
"""Drawn and not used yet: 16 hex digits each. A forked process draws its own."""
os.register_at_fork(after_in_child=_chances.clear)
_VARIANTS: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The digit that stands for the variant and two random bits, by a random digit."""


def _chance() -> str:
    """Return 16 random hex digits, from the operating system."""
    try:
        return _chances.pop()
    except IndexError:
        drawn = os.urandom(8 * _DRAWN).hex()
        _chances.extend(drawn[i : i + 16] for i in range(16, len(drawn), 16))
        return drawn[:16]


class Uuid7:
    """Makes version 7 UUIDs (RFC 9562 §5.7), each greater than the one before it.

    Method 1 of §6.2: the 12 bits after the timestamp are a counter, so that ids made in one
    millisecond sort in the order in which they were made; when the counter overflows, the next
    millisecond is used early.
    """

    def __init__(self) -> None:
        self._last_ms = 0
        self._counter = 0
        self._begin = ""
        """How ids of the last millisecond begin: the timestamp and the version."""

    def make(self, now_ms: int) -> str:
        """Return the next UUID. `now_ms`: milliseconds since the Unix epoch, by the clock that the ids shall follow."""
        if now_ms > self._last_ms:
            self._begin_at(now_ms)
        else:
            self._counter += 1
            if self._counter > 0xFFF:
                self._begin_at(self._last_ms + 1)
        tail = _chance()
        return f"{self._begin}{self._counter:03x}-{_VARIANTS[tail[0]]}{tail[1:4]}-{tail[4:]}"

    def _begin_at(self, ms: int) -> None:
        stamp = f"{ms:012x}"
        self._last_ms, self._counter, self._begin = ms, 0, f"{stamp[:8]}-{stamp[8:]}-7"


_is_id: Final = re.compile(ID_PATTERN).match
_local: Final = Uuid7()


def uuid7() -> str:
    """Return a version 7 UUID by this process's clock. (`Machine.new_id` makes record ids, by Valkey's clock.)"""
    return _local.make(time.time_ns() // 1_000_000)


def new_id(partition: int) -> str:
    """Return a new id in this partition, by this process's clock."""
    return f"{partition}-{uuid7()}"


def partition_of(entity_id: str) -> int:
    """Return the partition that an id (already checked against ID_PATTERN) names."""
    return int(entity_id[: entity_id.index("-")])


def in_partition(entity_id: str, partition: int) -> bool:
    """Return whether this is an id, and of an entity that this partition keeps. Names of lanes, say, are no ids."""
    return entity_id.startswith(f"{partition}-") and _is_id(entity_id) is not None


def partition_for(name: str, partitions: int) -> int:
    """Return the partition that keeps an entity found by name (an idempotency key, a worker)."""
    return zlib.crc32(name.encode()) % partitions
