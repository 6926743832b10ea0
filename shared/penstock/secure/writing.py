"""How `penstock secure` writes its folder: it keeps what is there, makes what is missing, and derives the rest anew."""

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from penstock.bus.identity import Identity
from penstock.secure import certificates, valkey_acl
from penstock.secure.folder import Folder, text_of
from penstock.secure.keys import new_seed
from penstock.secure.valkey_acl import ADMIN, REPLICA
from penstock.secure.wishes import Deployment, SecureError, hosts_of
from penstock.verbs import SERVICES

SERVERS: Final = ("nats", "valkey")
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
SERVICE: Final = "service"
"""The role of an identity that is a service's."""


def write(
    folder: Folder, deployment: Deployment, wanted: Iterable[Identity] = (), rotate: Iterable[str] = ()
) -> list[str]:
    """Make the folder whole, with these users besides those it has. Return a line for each thing that is new.

    `rotate`: users and services that get a new key (and a service a new password). Raise SecureError or OSError.
    """
    _private(folder.path)
    for name in ("users", "services", "nats", "valkey", "tls"):
        _private(folder.path / name)
    _check(folder, deployment)
    _write(
        folder.path / "deployment.json",
        msgspec.json.format(msgspec.json.encode(deployment)).decode() + "\n",
    )
    news = list(_certificates(folder, deployment))
    if _write_once(folder.token_key, secrets.token_hex(32) + "\n"):
        news.append("token.key: signs the tokens of waitpoints")
    news += [*_logins(folder), *_add(folder, wanted), *_rotate(folder, rotate)]
    _configure(folder, deployment)
    return news


def _check(folder: Folder, deployment: Deployment) -> None:
    if folder.exists() and folder.deployment().root != deployment.root:
        raise SecureError(
            f"{folder.path} is for the root {folder.deployment().root!r}: take another folder for {deployment.root!r}"
        )


def _certificates(folder: Folder, deployment: Deployment) -> Iterator[str]:
    tls = folder.path / "tls"
    if not folder.authority.exists() or not (tls / "ca.key").exists():
        made = certificates.authority(deployment.root)
        _write(tls / "ca.key", made.key)
        _write(folder.authority, made.certificate)
        yield "tls/ca.crt, tls/ca.key: the authority; keep the key away from the servers"
    authority = certificates.Signed(text_of(folder.authority), text_of(tls / "ca.key"))
    hosts = list(dict.fromkeys([*LOCAL_HOSTS, *hosts_of(deployment), *deployment.hosts]))
    for server in SERVERS:
        certificate, key = tls / f"{server}.crt", tls / f"{server}.key"
        kept = certificate.read_text() if key.exists() and certificate.exists() else ""
        if certificates.good(kept, hosts, authority.certificate):
            continue
        made = certificates.server(f"penstock {server}", hosts, authority)
        _write(key, made.key)
        _write(certificate, made.certificate)
        yield f"tls/{server}.crt, tls/{server}.key: for {', '.join(hosts)}"


def _logins(folder: Folder) -> Iterator[str]:
    """Make what is missing of the services' logins and of those for the servers' operators."""
    ca = text_of(folder.authority)
    for name in SERVICES:
        if not folder.service_file(name).exists():
            _keep(folder.service_file(name), _service(name, ca))
            yield f"services/{name}.json: the service"
    if not folder.nats_admin.exists():
        _keep(folder.nats_admin, Identity(name=ADMIN, role=ADMIN, nkey_seed=new_seed(), ca=ca))
        yield "nats/admin.json: for operators of NATS; it may do everything"
    if _write_once(folder.password_file(ADMIN), secrets.token_urlsafe(32) + "\n"):
        yield "valkey/admin.password: for operators of Valkey (user admin); it may do everything"
    if _write_once(folder.password_file(REPLICA), secrets.token_urlsafe(32) + "\n"):
        yield "valkey/replica.password: for replicas of Valkey (masteruser replica, masterauth)"
    for path in (
        folder.nats_admin,
        *map(folder.service_file, SERVICES),
        *(folder.path / "users").glob("*.json"),
    ):
        if (kept := folder.identity(path)).ca != ca:  # the authority is a new one
            _keep(path, msgspec.structs.replace(kept, ca=ca))


def _add(folder: Folder, wanted: Iterable[Identity]) -> Iterator[str]:
    """Make the users that are not there yet."""
    known = {user.name: user for user in folder.users()}
    for each in wanted:
        if each.name in (*SERVICES, ADMIN):
            raise SecureError(f"{each.name!r} is a service's name or admin: take another for the {each.role}")
        found = known.get(each.name)
        if found is None:
            made = msgspec.structs.replace(each, nkey_seed=new_seed(), ca=text_of(folder.authority))
            _keep(folder.user_file(each.name), made)
            known[each.name] = made
            yield f"users/{each.name}.json: {each.role}"
        elif msgspec.structs.replace(found, nkey_seed="", ca="") != each:
            raise SecureError(
                f"there is a {found.role} {each.name!r} already, who is no {each.role} or has other lanes or"
                f" subjects: remove {folder.user_file(each.name)} first, or take another name"
            )


def _rotate(folder: Folder, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name in SERVICES:
            _keep(folder.service_file(name), _service(name, text_of(folder.authority)))
            yield f"services/{name}.json: a new key and a new password"
            continue
        if not folder.user_file(name).exists():
            raise SecureError(f"there is no user {name!r} to rotate")
        kept = folder.identity(folder.user_file(name))
        _keep(folder.user_file(name), msgspec.structs.replace(kept, nkey_seed=new_seed()))
        yield f"users/{name}.json: a new key"


def _keep(path: Path, identity: Identity) -> None:
    _write(path, msgspec.json.format(msgspec.json.encode(identity)).decode() + "\n")


def _configure(folder: Folder, deployment: Deployment) -> None:
    """Write what derives from the identities: the servers' users, and the services' settings."""
    names = (*SERVICES, ADMIN, REPLICA)
    hashes = {name: valkey_acl.hashed(folder.valkey_password(name)) for name in names}
    _write(folder.path / "valkey" / "users.acl", valkey_acl.acl(deployment.root, hashes))
    _write(folder.path / "nats" / "accounts.conf", folder.accounts(deployment))
    for name in SERVICES:
        settings = folder.settings(name, deployment.nats_url, deployment.valkey_url)
        lines = [f"{variable}={value}" for variable, value in settings.items()]
        _write(folder.path / "services" / f"{name}.env", "\n".join(lines) + "\n")


def _service(name: str, ca: str) -> Identity:
    """Make a service's identity, with a new key and a new password for Valkey."""
    return Identity(
        name=name, role=SERVICE, nkey_seed=new_seed(), ca=ca, valkey_password=secrets.token_urlsafe(32)
    )


def _private(folder: Path) -> None:
    """Make a folder that only its owner can look into; also one that was open."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner can read; a reader sees the old or the new text, never half of one."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _write_once(path: Path, text: str) -> bool:
    """Write a file unless it is there. Return whether it was written."""
    if path.exists():
        return False
    _write(path, text)
    return True
