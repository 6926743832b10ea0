"""Key pairs of NATS users: nkeys, that is Ed25519 keys in NATS' own encoding."""

# nkeys comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

import secrets
from typing import Any

import nkeys


def new_seed() -> str:
    """Make a user's private key (`SU…`)."""
    return nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER).decode()


def public_key(seed: str) -> str:
    """Return the public key (`U…`) of a user's private key. Raise ValueError if it is none."""
    try:
        key: Any = nkeys.from_seed(bytearray(seed, "ascii"))
        return key.public_key.decode()
    except (nkeys.NkeysError, ValueError):
        raise ValueError("the nkey seed is broken") from None
