"""The audit trail: the form of an event, the verification that no event is missing, and reading the stream."""

from penstock.audit.form import (
    CURSOR_HEADER,
    GENESIS,
    SCHEMA_VERSION,
    Event,
    Facts,
    canonical,
    decode,
    seal,
    tokens,
    unseal,
)
from penstock.audit.room import Room, room
from penstock.audit.stream import PAGE, pages, verify
from penstock.audit.verifier import Problem, Report, Verifier, verify_messages

__all__ = [
    "CURSOR_HEADER",
    "GENESIS",
    "PAGE",
    "SCHEMA_VERSION",
    "Event",
    "Facts",
    "Problem",
    "Report",
    "Room",
    "Verifier",
    "canonical",
    "decode",
    "pages",
    "room",
    "seal",
    "tokens",
    "unseal",
    "verify",
    "verify_messages",
]
