"""Waitpoint tokens: `<key id>.<waitpoint_id>.<mac>`. The mac is an HMAC-SHA256 over a waitpoint's immutable facts.

No token is stored anywhere: a router can mint it again from the ring of signing keys. Valkey stores the ring
(partition 0); the first router that needs the ring creates it. HMACs are computed here, never in Lua, because
they would block Valkey's only thread.
"""

import asyncio
import base64
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Self

import msgspec
from msgspec import Struct

from penstock.errors import make
from penstock.ids import ID_PATTERN
from penstock.machine import Machine
from penstock.machine.ops import signal_router as ops
from penstock.machine.ops.signal_router import Facts

_ID: Final = ID_PATTERN.removeprefix("^").removesuffix(r"(?!\n)$")
_TOKEN: Final = re.compile(rf"([0-9a-f]{{8}})\.({_ID})\.([A-Za-z0-9_-]{{43}})")
_FRESH_S: Final = 0.9
"""Seconds until the ring is read again: another router may have rotated it, and the `ring` hint may be lost."""
_REREAD_S: Final = 0.1
"""Least seconds between reads of the ring for unknown key ids: made-up key ids must not each cause a read."""
KEPT: Final = 16
"""Most past keys in the ring."""


# Stands in for a missing waitpoint, so that its token is checked at the same cost as a wrong one.
NOBODY: Final = Facts(
    waitpoint_id="0-00000000-0000-7000-8000-000000000000", execution_id="", key="", created_at=0
)


class Token(NamedTuple):
    """A well-formed token, valid or not."""

    key_id: str
    waitpoint_id: str
    mac: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        found = _TOKEN.fullmatch(text)
        return cls(*found.groups()) if found else None


class Key(Struct):
    """A signing key of the ring. expires_at: ms by Valkey's clock, set when the key is rotated out."""

    secret: bytes
    expires_at: int | None = None

    def __repr__(self) -> str:
        return f"Key(expires_at={self.expires_at})"


class Ring(Struct):
    """The signing keys by id. The `active` key signs; every key verifies tokens until it expires."""

    active: str
    keys: dict[str, Key]

    @classmethod
    def new(cls, *, derived: bool = False) -> Self:
        """Return a ring with one new key. derived: its secret is derived from the deployment's key and not stored."""
        key_id = secrets.token_hex(4)
        return cls(active=key_id, keys={key_id: Key(b"" if derived else secrets.token_bytes(32))})

    def mint(self, facts: Facts) -> str:
        """Return the waitpoint's token, signed with the active key."""
        mac = _mac(self.keys[self.active].secret, facts)
        return f"{self.active}.{facts.waitpoint_id}.{mac}"

    def rotated(self, fresh: "Ring", now: int, grace_ms: int) -> "Ring":
        """Return a ring that signs with the key of `fresh`. Keep past keys, to tell expired tokens from forged ones."""
        past = {
            key_id: Key(key.secret, now + grace_ms if key.expires_at is None else key.expires_at)
            for key_id, key in self.keys.items()
        }
        kept = sorted(past.items(), key=lambda each: each[1].expires_at or 0)[-KEPT:]
        return Ring(active=fresh.active, keys={**dict(kept), **fresh.keys})

    def refusal(self, token: Token, facts: Facts | None, now: float) -> str | None:
        """Return why the token is refused: `wrong`, or `expired` (genuine, but of an expired key); None if valid."""
        key = self.keys.get(token.key_id)
        secret = key.secret if key else self.keys[self.active].secret
        same = hmac.compare_digest(_mac(secret, facts or NOBODY), token.mac)
        if not (same and key and facts):
            return "wrong"
        return "expired" if key.expires_at is not None and key.expires_at <= now else None


def _mac(secret: bytes, facts: Facts) -> str:
    message = f"{facts.waitpoint_id}\n{facts.key}\n{facts.created_at}".encode()
    return base64.urlsafe_b64encode(hmac.digest(secret, message, "sha256")).decode().rstrip("=")


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Ring).decode


class Tokens:
    """Mints and checks tokens with the deployment's ring, of which it caches a copy in memory."""

    def __init__(self, machine: Machine, now: Callable[[], float], master: bytes | None = None) -> None:
        """master: the secret from which keys are derived, so that Valkey stores none; None: the ring stores them."""
        self._master = master
        self._machine = machine
        self._now = now
        self._ring: Ring | None = None
        self._text = ""
        self._read_at = -_FRESH_S
        self._lock = asyncio.Lock()

    def forget(self, _partition: int = 0, _value: object = None) -> None:
        """Handle the `ring` hint: the ring was rotated, so read it again at the next use."""
        self._read_at = -_FRESH_S

    async def ring(self, key_ids: Iterable[str] = ()) -> Ring:
        """Return the cached ring, or a fresh one if the cache is old or lacks one of these keys.

        Raise PenstockError("valkey_unavailable").
        """
        if (ring := self._known(key_ids)) is not None:
            return ring
        async with self._lock:
            if (ring := self._known(key_ids)) is not None:
                return ring
            offer = _encode(self._new()).decode() if self._ring is None else None
            return self._read(await self._machine.run(ops.Secrets(offer=offer), at=0))

    def _known(self, key_ids: Iterable[str]) -> Ring | None:
        age = time.monotonic() - self._read_at
        ring = self._ring
        if ring is None or age >= _FRESH_S:
            return None
        lacks = any(key_id not in ring.keys for key_id in key_ids)
        return None if lacks and age >= _REREAD_S else ring

    def _read(self, kept: ops.RingKept) -> Ring:
        if not kept.ring:
            raise make("internal", "the ring of signing keys is gone")
        ring = _decode(kept.ring)
        for key_id, key in ring.keys.items():
            if not key.secret and self._master is not None:
                key.secret = hmac.digest(self._master, key_id.encode(), "sha256")
            elif not key.secret:
                raise make(
                    "internal", "the ring's keys are derived from a PENSTOCK_TOKEN_KEY, which is not set here"
                )
        self._text, self._ring, self._read_at = kept.ring, ring, time.monotonic()
        return ring

    def _new(self) -> Ring:
        return Ring.new(derived=self._master is not None)

    async def rotate(self, grace_ms: int) -> tuple[str, str, int]:
        """Switch to a new signing key. Return its id, the past key's id, and until when (ms) the past key is valid.

        Raise PenstockError("valkey_unavailable").
        """
        async with self._lock:
            offer = _encode(self._new()).decode()
            ring = self._read(await self._machine.run(ops.Secrets(offer=offer), at=0))
            while True:
                until = int(self._now()) + grace_ms
                kept = _decode(self._text)
                wanted = _encode(kept.rotated(self._new(), int(self._now()), grace_ms)).decode()
                past, was = ring.active, self._text
                ring = self._read(await self._machine.run(ops.SecretsRotate(was=was, ring=wanted), at=0))
                if self._text == wanted:
                    return ring.active, past, until

    def refusal(self, ring: Ring, token: Token, facts: Facts | None) -> str | None:
        """Return why the token is refused now, or None (see `Ring.refusal`)."""
        return ring.refusal(token, facts, self._now())
