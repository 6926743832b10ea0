"""The settings that say where NATS and Valkey are and how to log in: URLs, and files with secrets."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from penstock.store.places import UrlError, parse

_NATS: Final = ("nats", "tls", "ws", "wss")
_VALKEY: Final = ("redis", "rediss", "valkey", "valkeys")


class SettingsError(Exception):
    """A setting is wrong; the message names the variable."""


def login_of(url: str, password_file: str | None) -> str:
    """Return Valkey's URL with the password of the file in it. Raise SettingsError, without the secret in it."""
    if password_file is None:
        return url
    password = secret_in(password_file, "PENSTOCK_VALKEY_PASSWORD_FILE")
    scheme, _, place = url.partition("://")
    user, at, host = place.rpartition("@")
    if ":" in user:
        raise SettingsError(
            "set PENSTOCK_VALKEY_PASSWORD_FILE or a password in PENSTOCK_VALKEY_URL, not both"
        )
    return f"{scheme}://{user}:{quote(password, safe='')}@{host if at else place}"


def secret_in(path: str, variable: str) -> str:
    """Return what a file holds. Raise SettingsError with the variable that names the file."""
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: cannot be read: {error}") from None
    if not secret:
        raise SettingsError(f"{variable}: the file {path} is empty")
    return secret


def wrong_urls(values: Mapping[str, Any]) -> list[str]:
    """Return a line for each variable whose URL cannot be taken apart. The line shows no part of it: a password with
    an unquoted `/`, `@` or `#` in it may be anywhere."""
    wrong: list[str] = []
    quoting = "in a user or password write / as %2F, @ as %40, # as %23"
    servers = [each.strip() for each in values.get("nats_url", "").split(",")]
    if not all(_is_address(each if "://" in each else f"nats://{each}", _NATS) for each in servers if each):
        wrong.append(f"PENSTOCK_NATS_URL: must read nats://[user:password@]host:port[,…]; {quoting}")
    valkey: str = values.get("valkey_url", "redis://localhost")
    try:
        one = parse(valkey).kind == "server" and not valkey.startswith("unix://")
    except UrlError as error:
        wrong.append(f"PENSTOCK_VALKEY_URL: {error}; {quoting}")
    else:
        if one and not (_is_address(valkey, _VALKEY) and re.search(r"://[^/?]+(/\d*)?(\?|$)", valkey)):
            wrong.append(
                f"PENSTOCK_VALKEY_URL: must read redis://[[user]:password@]host:port/number; {quoting}"
            )
    return wrong


def _is_address(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number, or the host is no host
        return False
