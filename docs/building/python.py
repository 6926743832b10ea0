"""The Python API: the public names of each package, for mkdocstrings to fill in from their docstrings."""

from importlib import import_module
from typing import NamedTuple

import griffe
from nats.aio.client import Client as Nats

from penstock.client import Client

FIRST = ("Client", "Run", "FlowRun", "Worker", "Task", "SyncTask", "Penstock", "Clock", "PayloadCodec")
DURABLE = "penstock.worker.durable."
PARTS = tuple(
    f"{type(part).__module__}.{type(part).__qualname__}"
    for name, part in vars(Client(Nats())).items()
    if not name.startswith("_") and type(part).__module__.startswith("penstock.client.")
)
"""The classes behind `client.flows`, `client.lanes` and so on."""


class Topic(NamedTuple):
    """A page: the public names of a package, of those that are (or are not) defined in modules that begin so."""

    title: str
    about: str
    package: str
    more: tuple[str, ...] = ()
    within: str = ""
    without: str = "-"


TOPICS = {
    "client": Topic(
        "Client",
        "`from penstock import Client`: submits work, reads it, steers it, follows it.",
        "penstock.client",
        more=("penstock.client._options.ExecutionOptions", "penstock.client._options.FlowOptions", *PARTS),
    ),
    "worker": Topic(
        "Worker",
        "`from penstock import Worker, Task`: runs handlers.",
        "penstock.worker",
        without=DURABLE,
    ),
    "durable": Topic(
        "Durable functions",
        "What a `Task` journals, and what belongs to it ([durable functions](../../durable-functions.md)).",
        "penstock.worker",
        more=(
            "penstock.worker.durable.calls.DurableCalls",
            "penstock.worker.durable.wait_calls.WaitCalls",
            "penstock.worker.durable.branch_calls.BranchCalls",
        ),
        within=DURABLE,
    ),
    "testing": Topic(
        "Testing",
        "`penstock.testing`: a running Penstock in a test ([testing](../../testing.md)).",
        "penstock.testing",
    ),
    "codecs": Topic(
        "Codecs",
        "`penstock.codecs`: payloads that services cannot read ([payload codecs](../../payload-codecs.md)).",
        "penstock.codecs",
    ),
}


def pages() -> dict[str, str]:
    return {f"reference/api/{name}.md": _page(topic) for name, topic in TOPICS.items()}


def _page(topic: Topic) -> str:
    package = import_module(topic.package)
    names: list[str] = []
    for name in sorted(package.__all__, key=lambda name: (name not in FIRST, name.islower(), name)):
        module = getattr(getattr(package, name), "__module__", "")
        if module.startswith(topic.within) and not module.startswith(topic.without):
            names.append(f"{topic.package}.{name}")
    directives = [_directive(name) for name in (*names, *topic.more)]
    return "\n\n".join([f"# {topic.title}", topic.about, *directives]) + "\n"


def _directive(path: str) -> str:
    """Show a class. What it has from bases that are in its package, but not public, follows its own members."""
    place, _, name = path.rpartition(".")
    package = import_module(place)
    bases = getattr(getattr(package, name), "__mro__", ())[1:]
    private = {
        f"{base.__module__}.{base.__name__}"
        for base in bases
        if base.__module__.startswith(f"{place}._") and base.__name__ not in package.__all__
    }
    if not private:
        return f"::: {path}"
    own = griffe.load(place)[name].final_target
    members = [
        member.name
        for part in (own, *(base for base in own.mro() if base.path in private))
        for member in part.members.values()
        if member.has_docstring and not member.name.startswith("_")
    ]
    return f"::: {path}\n    options: {{inherited_members: true, members: [{', '.join(members)}]}}"
