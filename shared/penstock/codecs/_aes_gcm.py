"""`AesGcm`: encrypts payloads with AES in Galois/Counter Mode (NIST SP 800-38D)."""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from typing import ClassVar, Final

from penstock.codecs._codec import PayloadCodec, Undecodable, UnknownKey
from penstock.ids import TOKEN_PATTERN

# The nonce size that SP 800-38D recommends, in bytes. Section 8.3 allows 2**32 random nonces per key.
NONCE: Final = 12


class AesGcm(PayloadCodec):
    """Encrypts payloads with one of several keys, and decrypts them with the key that they name.

    >>> codec = AesGcm("2026-11", {"2026-11": key, "2026-05": old_key})

    * **key_id** - The id of the key that encrypts. Key ids are not secret: payloads show them.
    * **keys** - All keys by id, each of 16, 24 or 32 bytes. `AesGcm.new_key()` makes one.
    * **context** - Authenticated with every payload. A payload encrypted in one context cannot be decrypted in another,
      so deployments that share a key can be told apart.

    Raises `ValueError` for bad keys, and `ImportError` if the package `cryptography` is not installed.
    """

    name: ClassVar[str] = "aes-gcm"

    def __init__(self, key_id: str, keys: Mapping[str, bytes], *, context: bytes = b"") -> None:
        aead = _aead()
        if key_id not in keys:
            raise ValueError(f"there is no key {key_id!r} among the keys")
        for each, key in keys.items():
            if not re.match(TOKEN_PATTERN, each):
                raise ValueError(f"a key id has up to 128 of A-Z a-z 0-9 _ -: {each!r} is none")
            if len(key) not in (16, 24, 32):
                raise ValueError(f"key {each!r} has {len(key)} bytes; AES takes 16, 24 or 32")
        self._key_id = key_id
        self._context = context
        self._ciphers = {each: aead(bytes(key)) for each, key in keys.items()}

    @staticmethod
    def new_key() -> bytes:
        """Return a new random key of 32 bytes."""
        return _aead().generate_key(256)

    async def encode(self, payload: bytes) -> Mapping[str, str]:
        nonce = os.urandom(NONCE)
        sealed = self._ciphers[self._key_id].encrypt(nonce, payload, self._bound_to(self._key_id))
        return {"key": self._key_id, "data": base64.b64encode(nonce + sealed).decode()}

    async def decode(self, fields: Mapping[str, str]) -> bytes:
        from cryptography.exceptions import InvalidTag

        key_id = fields.get("key", "")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            have = ", ".join(self._ciphers)
            raise UnknownKey(f"the payload is encrypted with key {key_id!r}; this side has {have}")
        try:
            sealed = base64.b64decode(fields.get("data", ""), validate=True)
            return cipher.decrypt(sealed[:NONCE], sealed[NONCE:], self._bound_to(key_id))
        except (InvalidTag, ValueError, binascii.Error):
            # ValueError: the text is no base64, or shorter than a nonce.
            raise Undecodable(
                f"the payload cannot be decrypted with key {key_id!r}: that is another key, or the payload was changed"
            ) from None

    def _bound_to(self, key_id: str) -> bytes:
        """Return the associated data. It has no execution id, because services copy payloads between executions."""
        return b"penstock aes-gcm\0" + key_id.encode() + b"\0" + self._context

    def __repr__(self) -> str:
        return f"AesGcm({self._key_id!r}, keys={sorted(self._ciphers)})"


def _aead():
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise ImportError(
            "AesGcm needs the package cryptography: pip install 'penstock[encryption]'"
        ) from None
    return AESGCM
