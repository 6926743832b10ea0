"""An identity: the file with which a user or a service of a secured deployment logs in to NATS (`penstock secure`).

It is JSON, so that it can be told from a NATS credentials file, and whole: the user's name, its key, and the
certificate of the authority that signed the servers' certificates. Whoever has the file is that user.
"""

import ssl
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from penstock import errors

USER_PATTERN: Final = r"^(?!.*--)[A-Za-z0-9_-]{0,31}[A-Za-z0-9_](?!\n)$"
"""A user's name: a subject token, short enough to begin a worker id, and without the `--` that ends it there, which it
must not begin either."""


class Identity(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A login to NATS. Its representation shows no key."""

    name: Annotated[str, Meta(pattern=USER_PATTERN)]
    role: str
    lanes: tuple[str, ...] = ()
    """The lanes that a worker is bound to; empty: any."""
    subjects: tuple[str, ...] = ()
    """What a publisher of messages for mirror rules and triggers may publish."""
    nkey_seed: str
    """The private key, in NATS' form (`SU…`)."""
    ca: str
    """The authority's certificate, PEM."""
    valkey_password: str | None = None
    """A service's own; None for everybody else."""

    def __repr__(self) -> str:
        return f"Identity({self.name!r}, {self.role!r})"

    def login(self) -> dict[str, Any]:
        """Return the options for nats-py."""
        return {
            "nkeys_seed_str": self.nkey_seed,
            "inbox_prefix": inbox_of(self.name),
            "tls": self.trust(),
        }

    def trust(self) -> ssl.SSLContext:
        """Return a TLS context that trusts this identity's authority and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.ca)
        return context


def inbox_of(user: str) -> str:
    """Return the prefix of a user's reply subjects. No other user may subscribe to them."""
    return f"_INBOX.{user}"


def read(path: Path) -> Identity | None:
    """Read an identity. Return None if the file is none, but a NATS credentials file perhaps.

    Raise `invalid_request` if it is one that is broken, and OSError.
    """
    text = path.read_bytes()
    if not text.lstrip().startswith(b"{"):
        return None
    try:
        identity = msgspec.json.decode(text, type=Identity)
        identity.trust()
    except (msgspec.MsgspecError, ssl.SSLError, ValueError) as error:
        why = str(error) if isinstance(error, msgspec.ValidationError) else "it is cut or garbled"
        raise errors.make(
            "invalid_request",
            f"{path} is no identity as `penstock secure` writes it: {why}",
            detail={"field": "credentials"},
        ) from None
    return identity
