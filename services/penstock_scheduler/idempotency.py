"""What tells two bodies under one idempotency key apart."""

import hashlib

import msgspec

_canonical = msgspec.json.Encoder(order="deterministic").encode


def digest(request: msgspec.Struct) -> str:
    """Equal requests have equal digests, in whatever order their fields came."""
    return hashlib.blake2b(_canonical(request), digest_size=16).hexdigest()
