"""nats-server and valkey-server on free loopback ports, with their data in temporary folders."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from penstock.local import servers as embedded
from penstock.local.data_dir import DataDir
from penstock.local.servers import Durability, Server
from penstock.local.supervise import dies_with

START_S: Final = 20.0
TRIES: Final = 3
"""How often to try a start: another process may take the chosen port before the server uses it."""


class Urls(NamedTuple):
    """The URLs of a session's servers."""

    nats: str
    valkey: str


class ServerProcess:
    """A server that a test can kill and start again, with the same port and data."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.url = server.url
        self.port = server.port
        self._server = server
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The pid of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers. Raises `RuntimeError` with the end of its log if it does not."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the server without waiting for it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                self._server.command, stdout=log, stderr=log, preexec_fn=dies_with(os.getpid())
            )

    def wait(self) -> None:
        """Wait until the server answers. Raises `RuntimeError` with the end of its log if it does not."""
        assert self._process is not None
        end = time.monotonic() + START_S
        while embedded.ask_now(self._server) is not embedded.Answer.YES:
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self._server.name} did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill the server with SIGKILL, so that it cannot save anything, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop the server with SIGSTOP: its connections stay open, and nothing is answered until `thaw`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on, with SIGCONT."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server with SIGTERM, and wait for its end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_S)


class NatsServer(ServerProcess):
    """nats-server with JetStream and messages of up to 8 MiB. `extra` is appended to its configuration."""

    def __init__(self, folder: Path, extra: str = "", durability: Durability = "process") -> None:
        data = DataDir(folder)
        server = embedded.nats(data, embedded.choose_port(0, None), durability)
        with (data.path / "nats.conf").open("a") as conf:
            conf.write(extra)
        self._conf = data.path / "nats.conf"
        super().__init__(server, folder)

    def turn_clients_away(self) -> None:
        """Close all connections with an error after which nats-py does not reconnect."""
        with self._conf.open("a") as conf:
            conf.write("max_connections: 0\n")
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)


class ValkeyServer(ServerProcess):
    """valkey-server that keeps every acknowledged change when it is killed (with `disk`, also in a power cut)."""

    def __init__(self, folder: Path, durability: Durability = "process") -> None:
        super().__init__(embedded.valkey(DataDir(folder), embedded.choose_port(0, None), durability), folder)


@contextmanager
def running(make: Callable[[Path], ServerProcess]) -> Generator[ServerProcess]:
    """Run a server in a temporary folder for the length of the `with` block."""
    for attempt in range(1, TRIES + 1):
        with tempfile.TemporaryDirectory(prefix="penstock-test-", ignore_cleanup_errors=True) as name:
            server = make(Path(name))
            try:
                server.start()
            except RuntimeError:
                if attempt == TRIES:
                    raise
                continue
            try:
                yield server
            finally:
                server.kill()
            return


@contextmanager
def servers() -> Generator[Urls]:
    """Run both servers for the length of the `with` block, and yield their URLs."""
    with running(NatsServer) as nats, running(ValkeyServer) as valkey:
        yield Urls(nats.url, valkey.url)
