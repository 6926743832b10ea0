"""Child executions that a handler passes to `task.complete`, created in the same step as the completion."""

from collections.abc import Mapping
from typing import Any

from penstock.bus.payloads import raw_of
from penstock.messages.common import NULL
from penstock.messages.executions import ExecutionSpec

Child = tuple[str, Any] | Mapping[str, Any]
"""A child execution to create: `(kind, input)`, or the fields of `execution.create`."""


def spec_of(child: Child) -> ExecutionSpec:
    """Build the spec of a child. Raise `TypeError` for an unknown field or an input that cannot be encoded."""
    fields: dict[str, Any] = (
        {"kind": child[0], "input": child[1]} if isinstance(child, tuple) else dict(child)
    )
    value = fields.pop("input", NULL)
    return ExecutionSpec(raw_input=raw_of(value), **fields)
