"""Signatures of hints: hints are believed only from services, also where NATS lets everybody publish.

A signature is a keyed BLAKE2b (RFC 7693) of the time, the subject and the body, in a header: services of release
0.1.0 do not look at it. The key lies in Valkey, which only services reach. A hint may be lost, so one that is refused
without need, since two hosts' clocks differ or a key was just made anew, only costs time.
"""

import asyncio
import hmac
import time
from hashlib import blake2b
from typing import Final

HEADER: Final = "Penstock-Seal"
WINDOW_S: Final = 10.0
"""How far a hint's time may be from ours, in seconds. Within it, whoever hears hints may repeat one."""
_MAC_BYTES: Final = 16


class Seal:
    """Signs hints, and checks signatures. `key` may be set at any time; at most 64 bytes."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.doubted = asyncio.Event()
        """Set when a hint was signed with another key: ours may be old."""

    def sign(self, subject: str, body: bytes) -> str:
        """Return the header's value for a hint that is published now."""
        at = str(int(time.time() * 1000))
        return f"{at}.{self._mac(at, subject, body)}"

    def refusal(self, subject: str, body: bytes, signature: str | None) -> str | None:
        """Return why a hint is not believed: `unsigned`, `forged` or `stale`. None if it is."""
        if not signature:
            return "unsigned"
        at, _, mac = signature.partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(at, subject, body).encode()):
            self.doubted.set()
            return "forged"
        return None if abs(time.time() - int(at) / 1000) <= WINDOW_S else "stale"

    def _mac(self, at: str, subject: str, body: bytes) -> str:
        # No time or subject has a newline in it, so no two hints are the same bytes.
        signed = b"%s\n%s\n%s" % (at.encode(errors="replace"), subject.encode(), body)
        return blake2b(signed, digest_size=_MAC_BYTES, key=self.key).hexdigest()
