"""Network namespaces: a test's own network of two hosts, whose link can be cut (man ip-netns, man veth)."""

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager

import pytest


class Namespace:
    """A host beside this one. `here` and `there` are the addresses of the two ends of the link between them."""

    def __init__(self, number: int) -> None:
        self.name = f"penstock{number}"
        net = f"10.213.{number % 256}"
        self.here, self.there = f"{net}.1", f"{net}.2"
        self._link = f"ps{number}"

    @property
    def inside(self) -> tuple[str, ...]:
        """The beginning of a command line that runs the rest of it on that host."""
        return ("ip", "netns", "exec", self.name)

    def make(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", self._link, "type", "veth", "peer", "name", "up0", "netns", self.name)
        ip("address", "add", f"{self.here}/30", "dev", self._link)
        ip("link", "set", self._link, "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "address", "add", f"{self.there}/30", "dev", "up0")
        self.join()

    def remove(self) -> None:
        subprocess.run(["ip", "link", "delete", self._link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)

    def cut(self) -> None:
        """Cut the link. Packets are lost; connections are not closed."""
        ip("-n", self.name, "link", "set", "up0", "down")

    def join(self) -> None:
        ip("-n", self.name, "link", "set", "up0", "up")


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


@contextmanager
def namespace() -> Generator[Namespace]:
    """Make another host for the length of the `with` block. Skip the test where that is not allowed."""
    host = Namespace(os.getpid())
    try:
        host.make()
    except (OSError, subprocess.CalledProcessError) as error:
        host.remove()
        why = getattr(error, "stderr", None) or error
        pytest.skip(f"no network namespaces here (they need iproute2 and root): {why}")
    try:
        yield host
    finally:
        host.remove()
