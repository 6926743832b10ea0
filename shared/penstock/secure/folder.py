"""The folder that `penstock secure` writes: the identities, and what the servers and the services read.

The identities are what is true. Everything that can be derived from them and from `deployment.json` is written anew at
each run; keys, passwords and the authority are made once, where they are missing.

```
deployment.json             root, addresses, hosts, streams that rules may follow
users/<name>.json           identities of people, workers and publishers
services/<service>.json     identities of the services; <service>.env their settings
nats/accounts.conf          users and permissions for nats-server; admin.json a login that may do everything
valkey/users.acl            users for Valkey; admin.password the operators' own, replica.password the replicas'
tls/                        ca.crt, ca.key; <server>.crt, <server>.key
token.key                   signs waitpoints' tokens
```
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from penstock.bus.identity import Identity, read
from penstock.errors import PenstockError
from penstock.secure import nats_config, roles, services, valkey_acl
from penstock.secure.keys import new_seed
from penstock.secure.roles import Subjects
from penstock.secure.valkey_acl import ADMIN, REPLICA
from penstock.secure.wishes import Deployment, SecureError, hosts_of
from penstock.verbs import SERVICES, SIGNAL_ROUTER

SERVERS: Final = ("nats", "valkey")
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
SERVICE: Final = "service"
"""The role of an identity that is a service's."""


class Folder:
    """One such folder. `write` makes it whole; the other methods read it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    # -- reading ----------------------------------------------------------------------------------

    def exists(self) -> bool:
        return (self.path / "deployment.json").exists()

    def deployment(self) -> Deployment:
        """Return what the folder is for. Raise SecureError if it was not written by `penstock secure`."""
        path = self.path / "deployment.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Deployment)
        except FileNotFoundError:
            raise SecureError(
                f"{self.path} holds no security: `penstock secure {self.path}` makes it"
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise SecureError(f"{path} cannot be read: {error}") from None

    def users(self) -> list[Identity]:
        """Return the users, by name. Raise SecureError for a file that is none."""
        return [self._identity(path) for path in sorted((self.path / "users").glob("*.json"))]

    def service(self, name: str) -> Identity:
        """Return a service's identity. Raise SecureError if it is missing."""
        return self._identity(self.service_file(name))

    def service_file(self, name: str) -> Path:
        return self.path / "services" / f"{name}.json"

    def user_file(self, name: str) -> Path:
        return self.path / "users" / f"{name}.json"

    @property
    def nats_admin(self) -> Path:
        """The identity of whoever looks after NATS: it may use all subjects of the account."""
        return self.path / "nats" / "admin.json"

    @property
    def token_key(self) -> Path:
        return self.path / "token.key"

    @property
    def authority(self) -> Path:
        return self.path / "tls" / "ca.crt"

    def valkey_login(self, url: str, user: str) -> str:
        """Return Valkey's URL with a service's login, or that of `admin`. Raise SecureError."""
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        options = [each for each in parts.query.split("&") if each and not each.startswith("ssl_ca_certs=")]
        return parts._replace(
            netloc=f"{user}:{self.valkey_password(user)}@{place}",
            query="&".join([*options, f"ssl_ca_certs={quote(str(self.authority))}"]),
        ).geturl()

    def valkey_password(self, user: str) -> str:
        """Return the password of one of Valkey's users. Raise SecureError."""
        if user in (ADMIN, REPLICA):
            return self._text(self._password_file(user)).strip()
        return self.service(user).valkey_password or ""

    def _password_file(self, user: str) -> Path:
        return self.path / "valkey" / f"{user}.password"

    def _identity(self, path: Path) -> Identity:
        try:
            found = read(path)
        except OSError as error:
            raise SecureError(
                f"{path} cannot be read: {error.strerror}; run `penstock secure` again"
            ) from None
        except PenstockError as error:
            raise SecureError(error.message) from None
        if found is None or found.name != path.stem:
            raise SecureError(f"{path} is not the identity of {path.stem!r}: remove or rename it")
        return found

    def _text(self, path: Path) -> str:
        try:
            return path.read_text()
        except OSError as error:
            raise SecureError(
                f"{path} cannot be read: {error.strerror}; run `penstock secure` again"
            ) from None

    # -- writing ----------------------------------------------------------------------------------

    def write(
        self, deployment: Deployment, wanted: Iterable[Identity] = (), rotate: Iterable[str] = ()
    ) -> list[str]:
        """Make the folder whole, with these users besides those it has. Return a line for each thing that is new.

        `rotate`: users and services that get a new key (and a service a new password). Raise SecureError or OSError.
        """
        _private(self.path)
        for name in ("users", "services", "nats", "valkey", "tls"):
            _private(self.path / name)
        self._check(deployment)
        _write(
            self.path / "deployment.json",
            msgspec.json.format(msgspec.json.encode(deployment)).decode() + "\n",
        )
        news = list(self._certificates(deployment))
        if _write_once(self.token_key, secrets.token_hex(32) + "\n"):
            news.append("token.key: signs the tokens of waitpoints")
        news += [*self._logins(), *self._add(wanted), *self._rotate(rotate)]
        self._configure(deployment)
        return news

    def _check(self, deployment: Deployment) -> None:
        if self.exists() and self.deployment().root != deployment.root:
            raise SecureError(
                f"{self.path} is for the root {self.deployment().root!r}: take another folder for {deployment.root!r}"
            )

    def _certificates(self, deployment: Deployment) -> Iterator[str]:
        # Here, because `penstock up --secure` reads the folder without `cryptography`.
        from penstock.secure import certificates

        folder = self.path / "tls"
        if not self.authority.exists() or not (folder / "ca.key").exists():
            made = certificates.authority(deployment.root)
            _write(folder / "ca.key", made.key)
            _write(self.authority, made.certificate)
            yield "tls/ca.crt, tls/ca.key: the authority; keep the key away from the servers"
        authority = certificates.Signed(self._text(self.authority), self._text(folder / "ca.key"))
        hosts = list(dict.fromkeys([*LOCAL_HOSTS, *hosts_of(deployment), *deployment.hosts]))
        for server in SERVERS:
            certificate, key = folder / f"{server}.crt", folder / f"{server}.key"
            kept = certificate.read_text() if key.exists() and certificate.exists() else ""
            if certificates.good(kept, hosts, authority.certificate):
                continue
            made = certificates.server(f"penstock {server}", hosts, authority)
            _write(key, made.key)
            _write(certificate, made.certificate)
            yield f"tls/{server}.crt, tls/{server}.key: for {', '.join(hosts)}"

    def _logins(self) -> Iterator[str]:
        """Make what is missing of the services' logins and of those for the servers' operators."""
        ca = self._text(self.authority)
        for name in SERVICES:
            if not self.service_file(name).exists():
                self._keep(self.service_file(name), _service(name, ca))
                yield f"services/{name}.json: the service"
        if not self.nats_admin.exists():
            self._keep(self.nats_admin, Identity(name=ADMIN, role=ADMIN, nkey_seed=new_seed(), ca=ca))
            yield "nats/admin.json: for operators of NATS; it may do everything"
        if _write_once(self._password_file(ADMIN), secrets.token_urlsafe(32) + "\n"):
            yield "valkey/admin.password: for operators of Valkey (user admin); it may do everything"
        if _write_once(self._password_file(REPLICA), secrets.token_urlsafe(32) + "\n"):
            yield "valkey/replica.password: for replicas of Valkey (masteruser replica, masterauth)"
        for path in (
            self.nats_admin,
            *map(self.service_file, SERVICES),
            *(self.path / "users").glob("*.json"),
        ):
            if (kept := self._identity(path)).ca != ca:  # the authority is a new one
                self._keep(path, msgspec.structs.replace(kept, ca=ca))

    def _add(self, wanted: Iterable[Identity]) -> Iterator[str]:
        """Make the users that are not there yet."""
        known = {user.name: user for user in self.users()}
        for each in wanted:
            if each.name in (*SERVICES, ADMIN):
                raise SecureError(
                    f"{each.name!r} is a service's name or admin: take another for the {each.role}"
                )
            found = known.get(each.name)
            if found is None:
                made = msgspec.structs.replace(each, nkey_seed=new_seed(), ca=self._text(self.authority))
                self._keep(self.user_file(each.name), made)
                known[each.name] = made
                yield f"users/{each.name}.json: {each.role}"
            elif msgspec.structs.replace(found, nkey_seed="", ca="") != each:
                raise SecureError(
                    f"there is a {found.role} {each.name!r} already, who is no {each.role} or has other lanes or"
                    f" subjects: remove {self.user_file(each.name)} first, or take another name"
                )

    def _rotate(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            if name in SERVICES:
                self._keep(self.service_file(name), _service(name, self._text(self.authority)))
                yield f"services/{name}.json: a new key and a new password"
                continue
            if not self.user_file(name).exists():
                raise SecureError(f"there is no user {name!r} to rotate")
            kept = self._identity(self.user_file(name))
            self._keep(self.user_file(name), msgspec.structs.replace(kept, nkey_seed=new_seed()))
            yield f"users/{name}.json: a new key"

    def _keep(self, path: Path, identity: Identity) -> None:
        _write(path, msgspec.json.format(msgspec.json.encode(identity)).decode() + "\n")

    def _configure(self, deployment: Deployment) -> None:
        """Write what derives from the identities: the servers' users, and the services' settings."""
        names = (*SERVICES, ADMIN, REPLICA)
        hashes = {name: valkey_acl.hashed(self.valkey_password(name)) for name in names}
        _write(self.path / "valkey" / "users.acl", valkey_acl.acl(deployment.root, hashes))
        _write(self.path / "nats" / "accounts.conf", self.accounts(deployment))
        for name in SERVICES:
            settings = self.settings(name, deployment.nats_url, deployment.valkey_url)
            lines = [f"{variable}={value}" for variable, value in settings.items()]
            _write(self.path / "services" / f"{name}.env", "\n".join(lines) + "\n")

    def accounts(self, deployment: Deployment) -> str:
        """Return the accounts for nats-server. Raise SecureError for a broken key or an unknown role."""
        root, users = deployment.root, self.users()
        published = sorted({subject for user in users for subject in user.subjects})
        for subject in (*published, *(stream.subject for stream in deployment.streams)):
            if subject.split(".")[0] == root:
                raise SecureError(
                    f"the subject {subject!r} is Penstock's own: it is not for publishers or streams"
                )
        allowed = [(self._identity(self.nats_admin), Subjects([">"], [">"]))]
        for service in map(self.service, SERVICES):
            allowed.append((service, services.subjects_of(service, root, published, deployment.streams)))
        for user in users:
            if user.role not in roles.ROLES:
                raise SecureError(f"{self.user_file(user.name)}: there is no role {user.role!r}")
            allowed.append((user, roles.subjects_of(user, root)))
        try:
            return nats_config.accounts(allowed)
        except ValueError as error:
            raise SecureError(f"a user of {self.path}: {error}") from None

    def settings(self, service: str, nats_url: str, valkey_url: str) -> dict[str, str]:
        """Return the environment variables of a service, for servers at these URLs."""
        settings = {
            "PENSTOCK_ROOT": self.deployment().root,
            "PENSTOCK_NATS_URL": nats_url,
            "PENSTOCK_NATS_CREDS": str(self.service_file(service)),
            "PENSTOCK_VALKEY_URL": self.valkey_login(valkey_url, service),
        }
        if service == SIGNAL_ROUTER:
            settings["PENSTOCK_TOKEN_KEY_FILE"] = str(self.token_key)
        return settings


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
