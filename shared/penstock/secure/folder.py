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

from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec

from penstock.bus.identity import Identity, read
from penstock.errors import PenstockError
from penstock.secure import nats_config, roles, services
from penstock.secure.roles import Subjects
from penstock.secure.valkey_acl import ADMIN, REPLICA
from penstock.secure.wishes import Deployment, SecureError
from penstock.verbs import SERVICES, SIGNAL_ROUTER


class Folder:
    """One such folder, which `writing.write` makes. Nothing here changes it, nor needs `cryptography`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

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
        return [self.identity(path) for path in sorted((self.path / "users").glob("*.json"))]

    def service(self, name: str) -> Identity:
        """Return a service's identity. Raise SecureError if it is missing."""
        return self.identity(self.service_file(name))

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
            return text_of(self.password_file(user)).strip()
        return self.service(user).valkey_password or ""

    def password_file(self, user: str) -> Path:
        return self.path / "valkey" / f"{user}.password"

    def identity(self, path: Path) -> Identity:
        """Return the identity in a file. Raise SecureError if it is none, or that of another name."""
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

    def accounts(self, deployment: Deployment) -> str:
        """Return the accounts for nats-server. Raise SecureError for a broken key or an unknown role."""
        root, users = deployment.root, self.users()
        published = sorted({subject for user in users for subject in user.subjects})
        for subject in (*published, *(stream.subject for stream in deployment.streams)):
            if subject.split(".")[0] == root:
                raise SecureError(
                    f"the subject {subject!r} is Penstock's own: it is not for publishers or streams"
                )
        allowed = [(self.identity(self.nats_admin), Subjects([">"], [">"]))]
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


def text_of(path: Path) -> str:
    """Return what a file of the folder holds. Raise SecureError if it cannot be read."""
    try:
        return path.read_text()
    except OSError as error:
        raise SecureError(f"{path} cannot be read: {error.strerror}; run `penstock secure` again") from None
