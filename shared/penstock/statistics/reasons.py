"""Failures are alike when their reasons differ only in what changes from one time to the next: numbers, ids, names."""

import hashlib
import re
from typing import Final

import msgspec

LONGEST: Final = 200
"""The most characters of a normalised reason."""
_LOOKED_AT: Final = 2000
_REPLACED: Final = (
    (re.compile(r"\s+"), " "),
    (re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`"), "<text>"),
    (re.compile(r"\b(?:[0-9]{1,5}-)?[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<id>"),
    (
        re.compile(r"\b0x[0-9a-fA-F]+\b|\b(?=[0-9a-fA-F]*[0-9])(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b"),
        "<hex>",
    ),
    (re.compile(r"\d+(?:[.:,]\d+)*"), "<n>"),
)


def normalized(reason: str) -> str:
    """Return the reason with quoted texts, ids, hexadecimal and decimal numbers replaced by placeholders."""
    text = reason[:_LOOKED_AT]
    for pattern, placeholder in _REPLACED:
        text = pattern.sub(placeholder, text)
    return text.strip()[:LONGEST]


def group_of(namespace: str, kind: str, category: str, reason: str) -> str:
    """Return the id of the failure group with this normalised reason: 16 hexadecimal digits."""
    told = msgspec.json.encode([namespace, kind, category, reason])
    return hashlib.blake2b(told, digest_size=8).hexdigest()
