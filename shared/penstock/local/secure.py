"""`penstock up --secure`: the embedded servers with the users, permissions and certificates of `penstock secure`."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from penstock.local.problems import Problem
from penstock.local.servers import Server, quoted
from penstock.secure.folder import Folder
from penstock.secure.valkey_acl import ADMIN, REPLICA
from penstock.secure.wishes import SecureError

NATS_TLS: Final = """\
tls {{
    cert_file: "{tls}/nats.crt"
    key_file: "{tls}/nats.key"
    ca_file: "{tls}/ca.crt"
    min_version: "1.2"
}}
"""

VALKEY: Final = """\

port 0
tls-port {port}
tls-cert-file "{tls}/valkey.crt"
tls-key-file "{tls}/valkey.key"
tls-ca-cert-file "{tls}/ca.crt"
tls-auth-clients no
aclfile "{acl}"
"""

VALKEY_NODE: Final = """\
tls-cluster yes
tls-replication yes
masteruser {user}
masterauth {password}
"""


def root_of(folder: Path) -> str:
    """Return the root that a folder of `penstock secure` is for. Raise Problem if it is none."""
    try:
        return Folder(folder).deployment().root
    except SecureError as error:
        raise Problem(str(error)) from None


def operators_valkey(folder: Path, url: str) -> str:
    """Return Valkey's URL with the login of its operators. Raise Problem."""
    try:
        return Folder(folder).valkey_login(url, ADMIN)
    except SecureError as error:
        raise Problem(str(error)) from None


class Security:
    """What a `penstock up --secure` takes from the folder. Raise Problem if the folder is not whole."""

    def __init__(self, folder: Path, root: str) -> None:
        self.folder = Folder(folder)
        try:
            self._deployment = self.folder.deployment()
            self._accounts = self.folder.accounts(self._deployment)
            named = {user.role: user.name for user in reversed(self.folder.users())}
        except SecureError as error:
            raise Problem(str(error)) from None
        self.facts = {"secure": str(self.folder.path)}
        """What other commands need to know: the folder, and the identity of its first operator."""
        if operator := named.get("operator"):
            self.facts["operator"] = str(self.folder.user_file(operator))
        gateway = named.get("gateway")
        self.gateway = self.folder.user_file(gateway) if gateway else None
        """The identity of its first user of the role `gateway`."""
        if self._deployment.root != root:
            raise Problem(
                f"{folder} secures the root {self._deployment.root!r}, not {root!r}: name it with --root"
            )

    @property
    def nats_tls(self) -> str:
        """The block that has nats-server speak TLS: with clients, and inside `cluster` with other servers, which have
        to prove that they are such.
        """
        return NATS_TLS.format(tls=quoted(self.folder.authority.parent))

    def nats(self, server: Server) -> Server:
        """Add TLS and the users to the configuration of a nats-server."""
        _append(server.config, f"\n{self.nats_tls}{self._accounts}")
        return replace(server, url=f"tls://{server.host}:{server.port}")

    def valkey(self, server: Server) -> Server:
        """Add TLS and the users to the configuration of a Valkey. Its URL holds no login."""
        tls, acl = quoted(self.folder.authority.parent), quoted(self.folder.path / "valkey" / "users.acl")
        _append(server.config, VALKEY.format(port=server.port, tls=tls, acl=acl))
        return replace(server, url=f"rediss://{server.host}:{server.port}/0", authority=self.folder.authority)

    def valkey_node(self, server: Server) -> Server:
        """Do the same for a node of a cluster. It has the login of an operator, who forms the cluster."""
        try:
            password, replica = (self.folder.valkey_password(user) for user in (ADMIN, REPLICA))
        except SecureError as error:
            raise Problem(str(error)) from None
        secured = self.valkey(server)
        _append(server.config, VALKEY_NODE.format(user=REPLICA, password=replica))
        return replace(secured, user=ADMIN, password=password)

    def settings(self, service: str, nats_url: str, valkey_url: str) -> dict[str, str]:
        """Return the environment variables with which a service is itself and no other."""
        try:
            return self.folder.settings(service, nats_url, valkey_url)
        except SecureError as error:
            raise Problem(str(error)) from None


def _append(config: Path, text: str) -> None:
    with config.open("a") as file:
        file.write(text)
