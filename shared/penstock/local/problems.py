"""What goes wrong on this machine, in words for the person who has to mend it."""

from typing import Protocol


class Problem(Exception):
    """It did not work; the message says what to do. As the end of a command: exit code 1."""

    exit_code = 1


class Status(Protocol):
    """Who is told what is being done, such as `penstock.cli.output.Status`."""

    def doing(self, text: str) -> None:
        """What is being done now; the next word replaces it."""
        ...

    def say(self, text: str) -> None:
        """One line."""
        ...

    def good(self, name: str, text: str) -> None:
        """This part is there."""
        ...

    def bad(self, name: str, text: str) -> None:
        """This part is not."""
        ...
