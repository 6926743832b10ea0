"""An execution's fields as command-line options, shared by submit, submit-many and schedule create."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

from penstock.cli.problems import UsageProblem
from penstock.cli.shell import json_argument


@Parameter(name="*")
@dataclass(frozen=True)
class Spec:
    """Fields of execution.create.

    Parameters
    ----------
    lane
        The execution's queue [default].
    priority
        -128 to 127, higher first [0].
    namespace
        The namespace that it belongs to [default].
    max_attempts
        How many attempts in all [1].
    capability
        A capability that the worker must have; may be given several times.
    tag
        NAME=VALUE; may be given several times.
    option
        FIELD=JSON: any other field of execution.create, such as -o 'backoff={"kind": "fixed"}'.
    """

    lane: str | None = None
    priority: int | None = None
    namespace: str | None = None
    max_attempts: int | None = None
    capability: Annotated[list[str], Parameter(negative="")] = field(default_factory=list[str])
    tag: Annotated[list[str], Parameter(negative="")] = field(default_factory=list[str])
    option: Annotated[list[str], Parameter(alias="-o", negative="")] = field(default_factory=list[str])

    def fields(self) -> dict[str, Any]:
        """Return the fields that were given."""
        given: dict[str, Any] = {
            "lane": self.lane,
            "priority": self.priority,
            "namespace": self.namespace,
            "max_attempts": self.max_attempts,
            "capabilities": self.capability or None,
            "tags": tags(self.tag) or None,
        }
        more = (pair(each, "--option") for each in self.option)
        given |= {name: json_argument(text, f"--option {name}") for name, text in more}
        return {name: value for name, value in given.items() if value is not None}


NOTHING_SAID = Spec()


def tags(texts: list[str]) -> dict[str, str]:
    """Parse tags, each `NAME=VALUE`."""
    return dict(pair(each, "--tag") for each in texts)


def pair(text: str, option: str) -> tuple[str, str]:
    """Split `NAME=VALUE`. `option` is what the error message names."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageProblem(f"{option} must read NAME=VALUE, not {text!r}")
    return name, value
