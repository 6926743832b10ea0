"""The reference: everything in it comes from the code."""

import re
from pathlib import Path

import tables

from building import command, events, python, verbs
from penstock.asyncapi import document

INDEX = """\
# Reference

What Penstock promises, verb by verb. [The contract](../contract.md) says it in words; the pages here are made from
the code that keeps it.

- [Verbs](verbs.md): what each takes and gives, with an example. [Errors](errors.md): each code, its number and
  class.
- [Events](events.md): the audit trail, every kind of event with its data.
- [AsyncAPI](asyncapi.md): all subjects in one document, for machines.
- [The command](cli.md), [settings](settings.md), [metrics](metrics.md).
- Python: [client](api/client.md), [worker](api/worker.md), [durable functions](api/durable.md),
  [testing](api/testing.md), [codecs](api/codecs.md).
"""
ERRORS = """\
# Errors

Every error that a verb may answer. Over NATS it is in the body, `{"error": {"code", "class", "message", "retryable",
"detail"}}`, and in the headers `Nats-Service-Error-Code` (its number) and `Nats-Service-Error`. In Python each code
is an exception in `penstock.errors`, such as `errors.StaleLease`, and each class too: `except
errors.ContentionError`. Errors of the classes contention and unavailable are `retryable`.
"""
SETTINGS = """\
# Settings

Environment variables of the six services. [The contract](../contract.md#settings-of-a-service) says what a service
does with a wrong one.
"""
GATEWAY = """
## The gateway

Those of [`penstock-gateway`](../gateway.md).
"""
METRICS = """\
# Metrics

[Operations](../operations.md#metrics) says how they are served, and which to watch.
"""
ASYNCAPI = """\
# AsyncAPI

All subjects of Penstock in one document for machines: [asyncapi.json](asyncapi.json), in
AsyncAPI 3.0. Verbs are operations with a reply; published signals, observations and
events, audit events, frames, what workers hear, dead letters and the hints between services are channels of their
own. `penstock asyncapi` prints it for your root, and the [gateway](../gateway.md) serves it at `/v1/asyncapi.json`,
beside OpenAPI.

It is made from the types that the services decode, and a test reads it with AsyncAPI's own parser.
"""


def pages() -> dict[str, str]:
    """Return the pages of the reference, and the files beside them, by their path."""
    return {
        "reference/index.md": INDEX,
        "reference/verbs.md": verbs.page(),
        "reference/events.md": events.page(),
        "reference/errors.md": f"{ERRORS}\n{_anchored(tables.errors())}\n",
        "reference/asyncapi.md": ASYNCAPI,
        "reference/asyncapi.json": document().decode(),
        "reference/cli.md": command.page(),
        "reference/settings.md": f"{SETTINGS}\n{tables.markdown_table()}\n{GATEWAY}\n{tables.gateway()}\n",
        "reference/metrics.md": f"{METRICS}\n{_section('Metrics')}\n",
        **python.pages(),
    }


def _section(title: str) -> str:
    """Return the table of a section of operations.md (a test compares that of the metrics with a running Penstock)."""
    text = (
        (Path(tables.__file__).parent / "operations.md")
        .read_text()
        .split(f"## {title}\n")[1]
        .split("\n## ")[0]
    )
    return "\n".join(line for line in text.splitlines() if line.startswith("|")).replace("](", "](../")


def _anchored(table: str) -> str:
    """Return a table whose rows can be linked to by what their first column says."""
    head, rule, *rows = table.splitlines()
    anchored = [re.sub(r"^\| (`(\w+)`)", r'| <a id="\2"></a>\1', row) for row in rows]
    return "\n".join([head, rule, *anchored])
