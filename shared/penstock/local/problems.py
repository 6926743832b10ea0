"""Errors and progress messages for the person who runs Penstock on this machine."""

from typing import Protocol


class Problem(Exception):
    """A failure whose message tells the user what to do. A command that fails with it exits with code 1."""

    exit_code = 1


class Status(Protocol):
    """Receiver of progress messages, such as `penstock.cli.output.Status`."""

    def doing(self, text: str) -> None:
        """Show what is being done now; the next message replaces this one."""
        ...

    def say(self, text: str) -> None:
        """Print one line."""
        ...

    def good(self, name: str, text: str) -> None:
        """Report that the part `name` works."""
        ...

    def bad(self, name: str, text: str) -> None:
        """Report that the part `name` does not work."""
        ...
