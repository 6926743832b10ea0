"""`penstock up --secure`: the embedded servers with the users, permissions and certificates of `penstock secure`."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from penstock.local import servers
from penstock.local.data_dir import DataDir
from penstock.local.problems import Problem
from penstock.local.servers import Durability, Server
from penstock.secure.folder import Folder
from penstock.secure.valkey_acl import ADMIN
from penstock.secure.wishes import SecureError

NATS: Final = """\

tls {{
    cert_file: "{tls}/nats.crt"
    key_file: "{tls}/nats.key"
    min_version: "1.2"
}}
{accounts}"""

VALKEY: Final = """\

port 0
tls-port {port}
tls-cert-file "{tls}/valkey.crt"
tls-key-file "{tls}/valkey.key"
tls-ca-cert-file "{tls}/ca.crt"
tls-auth-clients no
aclfile "{acl}"
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
            operators = [user.name for user in self.folder.users() if user.role == "operator"]
        except SecureError as error:
            raise Problem(str(error)) from None
        self.facts = {"secure": str(self.folder.path)}
        """What other commands need to know: the folder, and the identity of its first operator."""
        if operators:
            self.facts["operator"] = str(self.folder.user_file(operators[0]))
        if self._deployment.root != root:
            raise Problem(
                f"{folder} secures the root {self._deployment.root!r}, not {root!r}: name it with --root"
            )

    def nats(self, data: DataDir, port: int, durability: Durability) -> Server:
        """Write nats-server's configuration, as `servers.nats` does."""
        server = servers.nats(data, port, durability)
        tls = servers.quoted(self.folder.authority.parent)
        _append(data.path / "nats.conf", NATS.format(tls=tls, accounts=self._accounts))
        return replace(server, url=f"tls://127.0.0.1:{port}")

    def valkey(self, data: DataDir, port: int, durability: Durability) -> Server:
        """Write Valkey's configuration, as `servers.valkey` does. The URL holds no login."""
        server = servers.valkey(data, port, durability)
        tls = servers.quoted(self.folder.authority.parent)
        acl = servers.quoted(self.folder.path / "valkey" / "users.acl")
        _append(data.path / "valkey.conf", VALKEY.format(port=port, tls=tls, acl=acl))
        return replace(server, url=f"rediss://127.0.0.1:{port}/0", authority=self.folder.authority)

    def settings(self, service: str, nats_url: str, valkey_url: str) -> dict[str, str]:
        """Return the environment variables with which a service is itself and no other."""
        try:
            return self.folder.settings(service, nats_url, valkey_url)
        except SecureError as error:
            raise Problem(str(error)) from None


def _append(config: Path, text: str) -> None:
    with config.open("a") as file:
        file.write(text)
