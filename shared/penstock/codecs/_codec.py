"""What a payload codec is, and the errors that codecs raise."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

from nats.aio.client import Client as Nats


class PayloadCodec(ABC):
    """A codec for payloads. A client and the workers that read its payloads need the same one.

    A payload is JSON text in UTF-8. What the codec makes of it travels as the object
    `{"penstock.codec": {"codec": <name>, **fields}}`.
    """

    name: ClassVar[str]
    """The codec's name in what it makes. Payloads are kept, so the name stays."""

    @abstractmethod
    async def encode(self, payload: bytes) -> Mapping[str, str] | None:
        """Return the fields that stand for the payload, or None to leave the payload as it is.

        The values are text without braces. The names `codec` and `of` are taken.
        """

    @abstractmethod
    async def decode(self, fields: Mapping[str, str]) -> bytes:
        """Return the payload that `encode` got. Raise `CodecError` if there is none to be had from these fields."""

    def on(self, nats: Nats) -> Self:
        """Return this codec for use on a connection. A codec that needs NATS returns a copy bound to it."""
        return self


class CodecError(Exception):
    """A payload cannot be coded or decoded. `category` is the failure category of an attempt that fails because of it.

    The text names keys and objects by their ids. It never holds a payload or a key.
    """

    category: ClassVar[str] = "codec_error"


class UnknownCodec(CodecError):
    """The payload was made by a codec that this side does not have."""

    category = "unknown_codec"


class UnknownKey(CodecError):
    """The payload was encrypted with a key that this side does not have."""

    category = "unknown_key"


class Undecodable(CodecError):
    """The payload is not what its codec made: it was changed, or this side has another key under the same id."""

    category = "undecodable"


class ObjectMissing(CodecError):
    """The object that holds the payload is gone: its bucket's time to live has passed, or somebody deleted it."""

    category = "object_missing"
