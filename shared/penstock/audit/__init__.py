"""The audit trail: the form of an event, the verification that no event is missing, and reading the stream."""

from penstock.audit.file import Head, NotAnExport, Writer, verify_file
from penstock.audit.form import (
    CURSOR_HEADER,
    GENESIS,
    PARTITION,
    REWOUND,
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
from penstock.audit.stream import PAGE, Stored, backwards, find, pages, stored, verify
from penstock.audit.verifier import Problem, Report, Verifier, verify_messages

__all__ = [
    "CURSOR_HEADER",
    "GENESIS",
    "PAGE",
    "PARTITION",
    "REWOUND",
    "SCHEMA_VERSION",
    "Event",
    "Facts",
    "Head",
    "NotAnExport",
    "Problem",
    "Report",
    "Room",
    "Stored",
    "Verifier",
    "Writer",
    "backwards",
    "canonical",
    "decode",
    "find",
    "pages",
    "room",
    "seal",
    "stored",
    "tokens",
    "unseal",
    "verify",
    "verify_file",
    "verify_messages",
]
