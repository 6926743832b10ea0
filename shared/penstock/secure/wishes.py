"""What the caller of `penstock secure` asks for: the deployment's facts, and users, as its options say them."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from penstock.bus.identity import USER_PATTERN, Identity
from penstock.ids import TOKEN_PATTERN
from penstock.secure.roles import Role
from penstock.secure.services import Followed
from penstock.store.places import UrlError, parse
from penstock.urls import redact

_SUBJECT: Final = re.compile(r'(?!_INBOX\.|\$)[^\s.*>"\\]+(\.([^\s.*>"\\]+|\*))*(\.>)?')
_OWN: Final = "with subjects such as ci.>, none of NATS' own"


class SecureError(Exception):
    """The folder cannot be written or read as it is; the message says what to do."""


class Deployment(Struct, frozen=True, kw_only=True):
    """What all files of a folder agree on."""

    root: Annotated[str, Meta(pattern=TOKEN_PATTERN)] = "penstock"
    nats_url: str = "tls://127.0.0.1:4222"
    valkey_url: str = "rediss://127.0.0.1:6379/0"
    hosts: tuple[str, ...] = ()
    """Further names and addresses for the servers' certificates."""
    streams: tuple[Followed, ...] = ()
    """What rules and triggers may follow besides the subjects of publishers."""


def wanted(role: Role, text: str) -> Identity:
    """Return the user that `NAME`, a worker's `NAME=LANE,LANE` or a publisher's `NAME=SUBJECT,SUBJECT` asks for.

    It has no key yet. Raise SecureError.
    """
    name, bound, rest = text.partition("=")
    bounds = tuple(sorted(set(rest.split(",")))) if bound else ()
    if not re.match(USER_PATTERN, name):
        raise SecureError(
            f"{name!r} is no user's name: 1 to 32 letters, digits, _ and -, not two - in a row nor one at the end"
        )
    user = Identity(name=name, role=role, nkey_seed="", ca="")
    if role == "worker":
        if not all(re.match(TOKEN_PATTERN, lane) for lane in bounds):
            raise SecureError(f"{text!r} must read NAME=LANE,LANE, with lanes of letters, digits, _ and -")
        return msgspec.structs.replace(user, lanes=bounds)
    if role == "publisher":
        if not bounds or not all(map(_SUBJECT.fullmatch, bounds)):
            raise SecureError(f"{text!r} must read NAME=SUBJECT,SUBJECT, {_OWN}")
        return msgspec.structs.replace(user, subjects=bounds)
    if bound:
        raise SecureError(f"only a worker and a publisher are bound to something, not the {role} {name!r}")
    return user


def changed(
    before: Deployment,
    *,
    root: str | None = None,
    nats_url: str | None = None,
    valkey_url: str | None = None,
    hosts: Sequence[str] = (),
    streams: Sequence[str] = (),
) -> Deployment:
    """Return the deployment with what is given; hosts and streams come in addition. Raise SecureError."""
    values: dict[str, Any] = {
        "root": root or before.root,
        "nats_url": nats_url or before.nats_url,
        "valkey_url": valkey_url or before.valkey_url,
        "hosts": tuple(dict.fromkeys([*before.hosts, *hosts])),
        "streams": tuple(dict.fromkeys([*before.streams, *map(_followed, streams)])),
    }
    try:
        deployment = msgspec.convert(values, Deployment)
    except msgspec.ValidationError as error:
        raise SecureError(f"the root {root!r} is none: {error}") from None
    hosts_of(deployment)
    return deployment


def hosts_of(deployment: Deployment) -> list[str]:
    """Return the hosts that the URLs name. Raise SecureError for a URL that names no server with TLS."""
    nats = [urlsplit(url.strip()) for url in deployment.nats_url.split(",")]
    if not all(url.scheme in ("tls", "nats") and url.hostname for url in nats):
        raise SecureError(
            f"{redact(deployment.nats_url)!r} is no URL of a secured server: it must read tls://host:port"
        )
    try:
        place = parse(deployment.valkey_url)
    except UrlError as error:
        raise SecureError(f"the URL of Valkey: {error}") from None
    valkey = [host.name for host in place.hosts] or [urlsplit(place.url).hostname]
    if not place.url.startswith("rediss://") or not all(valkey):
        raise SecureError(
            f"{redact(deployment.valkey_url)!r} is no URL of a secured server: it must read rediss://host:port,"
            " rediss+cluster://host:port,host:port or rediss+sentinel://host:port,host:port/name"
        )
    return [name for name in (*(url.hostname for url in nats), *valkey) if name]


def _followed(text: str) -> Followed:
    stream, _, subject = text.partition("=")
    if not re.match(TOKEN_PATTERN, stream) or not _SUBJECT.fullmatch(subject):
        raise SecureError(f"{text!r} must read STREAM=SUBJECT, {_OWN}")
    return Followed(stream, subject)
