"""Real servers for tests, run by `penstock.testing`."""

import socket
from collections.abc import Generator
from contextlib import contextmanager

from penstock.testing.servers import NatsServer, ValkeyServer, running

__all__ = ["NatsServer", "ValkeyServer", "free_port", "nats_server", "valkey_server"]


@contextmanager
def nats_server(extra: str = "") -> Generator[str]:
    """Run a nats-server and yield its URL. `extra` is appended to its configuration."""
    with running(lambda folder: NatsServer(folder, extra)) as server:
        yield server.url


@contextmanager
def valkey_server() -> Generator[str]:
    """Run a valkey-server and yield its URL."""
    with running(ValkeyServer) as server:
        yield server.url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
