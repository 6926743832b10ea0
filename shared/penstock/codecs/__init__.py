"""Payload codecs: what a client and a worker do to payloads before the services see them (docs/payload-codecs.md)."""

from penstock.codecs._aes_gcm import AesGcm
from penstock.codecs._codec import (
    CodecError,
    ObjectMissing,
    PayloadCodec,
    Undecodable,
    UnknownCodec,
    UnknownKey,
)
from penstock.codecs._coding import Codecs
from penstock.codecs._offload import Offload

__all__ = [
    "AesGcm",
    "CodecError",
    "Codecs",
    "ObjectMissing",
    "Offload",
    "PayloadCodec",
    "Undecodable",
    "UnknownCodec",
    "UnknownKey",
]
