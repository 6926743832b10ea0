"""Bearer tokens: a file of SHA-256 digests, each with a role and a name.

A line is `<digest> <role> <name>`; empty lines and those that begin with `#` are skipped. The file holds no token, so a
copy of it opens nothing. A token is 256 random bits, so a plain digest is enough: there is nothing to guess.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, cast

from penstock.bus import streams
from penstock.ids import TOKEN_PATTERN
from penstock.secure.roles import PERMISSIONS, ROLES, Role

PREFIX: Final = "penstock_"
"""What a token begins with, so that scanners for leaked secrets can find one."""
OTHERS: Final = stat.S_IWGRP | stat.S_IRWXO
"""Rights that make the file unusable: its group may not write it, and others have nothing to do with it."""

_NAME: Final = re.compile(TOKEN_PATTERN).match
_DIGEST: Final = re.compile(r"[0-9a-f]{64}").fullmatch

AUDIT: Final = "audit.>"


class TokensError(Exception):
    """The tokens file cannot be used; the message says why, and shows no digest."""


class Bearer(NamedTuple):
    """The holder of a token."""

    digest: str
    role: Role
    name: str


def may_hear(role: str) -> bool:
    """Return whether a role hears the audit events."""
    return AUDIT in PERMISSIONS[cast("Role", role)].subscribe


def may_read(role: str) -> bool:
    """Return whether a role reads the stored audit events."""
    return streams.AUDIT in PERMISSIONS[cast("Role", role)].read


USEFUL: Final = tuple(
    role for role in ROLES if role != "gateway" and (PERMISSIONS[role].verbs or may_hear(role))
)
"""The roles that a token may have: the others only publish to NATS subjects, or are the gateway's own."""


class Tokens:
    """The tokens of a file. `load` reads it, and `load_if_changed` reads it again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.on_change: list[Callable[[], None]] = []
        """Called after the file was read again."""
        self._bearers: tuple[Bearer, ...] = ()
        self._seen: tuple[int, int, int] | None = None

    def load(self) -> None:
        """Read the file. Raise TokensError, and keep what was read before, if the file is not fit."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                # Remembered even if the content is wrong, so that the same mistake is reported once.
                self._seen = _mark(status)
                _check_mode(self.path, status.st_mode)
                text = file.read().decode()
        except OSError as error:
            self._seen = None
            raise TokensError(
                f"cannot read {self.path}: {error.strerror}; `penstock-gateway token NAME ROLE` makes it"
            ) from None
        except UnicodeDecodeError:
            raise TokensError(f"{self.path} is no text") from None
        self._bearers = _parse(self.path, text)
        for tell in self.on_change:
            tell()

    def load_if_changed(self) -> bool:
        """Read the file if it is another one than last time. Return whether it was read; raise as `load`."""
        try:
            if _mark(self.path.stat()) == self._seen:
                return False
        except OSError:
            if self._seen is None:  # it was missing already
                return False
        self.load()
        return True

    def find(self, token: str) -> Bearer | None:
        """Return the holder of a token. The time that this takes does not depend on how much of a token is right."""
        digest = digest_of(token)
        found = None
        for bearer in self._bearers:
            if hmac.compare_digest(bearer.digest, digest):
                found = bearer
        return found

    def knows(self, bearer: Bearer) -> bool:
        """Return whether the bearer still is in the file, with the same role."""
        return bearer in self._bearers


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def add(path: Path, name: str, role: str) -> str:
    """Make a token, add its line to the file (made with mode 0600 if it is missing), and return the token.

    Raise TokensError.
    """
    token = PREFIX + secrets.token_urlsafe(32)
    line = f"{digest_of(token)} {role} {name}\n"
    _parse(path, line)
    if path.exists():
        before = Tokens(path)
        before.load()
        if any(bearer.name == name for bearer in before._bearers):
            raise TokensError(f"{path} has a token named {name!r} already: remove its line first")
    try:
        if path.exists() and not path.read_text().endswith("\n"):  # an editor may leave out the last one
            line = "\n" + line
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as file:
            file.write(line)
    except OSError as error:
        raise TokensError(f"cannot write {path}: {error.strerror}") from None
    return token


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _check_mode(path: Path, mode: int) -> None:
    if mode & OTHERS:
        raise TokensError(
            f"{path} is open to others (mode {stat.S_IMODE(mode):04o}): `chmod 600 {path}`, or 640 if a group reads it"
        )


def _parse(path: Path, text: str) -> tuple[Bearer, ...]:
    found: dict[str, Bearer] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        if len(parts) != 3 or not _DIGEST(parts[0]):
            raise TokensError(f"{path}, line {number}: it must read `<SHA-256 in hex> <role> <name>`")
        digest, role, name = parts
        if role not in USEFUL:
            raise TokensError(
                f"{path}, line {number}: the role must be one of {', '.join(USEFUL)}, not {role!r}"
            )
        if not _NAME(name):
            raise TokensError(f"{path}, line {number}: a name has A-Z a-z 0-9 _ - only, up to 128")
        if name in found:
            raise TokensError(f"{path}, line {number}: the name {name!r} stands there twice")
        found[name] = Bearer(digest, cast("Role", role), name)
    return tuple(found.values())
