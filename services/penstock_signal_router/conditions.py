"""Conditions: checked here, compiled to the form that lua/waitpoint/conditions.lua evaluates."""

from typing import Any, Final

from penstock.errors import invalid
from penstock.messages.signals import Condition

MAX_DEPTH: Final = 16
MAX_NODES: Final = 64
"""Of one condition: each signal costs a walk over all of them."""


def compiled(condition: Condition | None) -> dict[str, Any] | None:
    """The condition for the state machine; None is any signal. Raises PenstockError("invalid_request")."""
    if condition is None:
        return None
    return _Compiler().node(condition, "condition", 1)


class _Compiler:
    def __init__(self) -> None:
        self._nodes = 0

    def node(self, node: Condition, path: str, depth: int) -> dict[str, Any]:
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise invalid(path, f"is nested more than {MAX_DEPTH} deep")
        if self._nodes > MAX_NODES:
            raise invalid("condition", f"has more than {MAX_NODES} nodes")
        forms = [form for form in ("name", "any_of", "all_of", "count") if getattr(node, form) is not None]
        if len(forms) != 1:
            raise invalid(path, "takes exactly one of name, any_of, all_of, or count with of")
        if (node.count is None) != (node.of is None):
            raise invalid(path, "count and of belong together")
        if node.distinct_sources and node.count is None:
            raise invalid(path, "distinct_sources belongs to count")
        if node.name is not None:
            return {"prefix": node.name[:-1]} if node.name.endswith(".*") else {"name": node.name}
        if node.any_of is not None:
            return {"any": self._all(node.any_of, f"{path}.any_of", depth)}
        if node.all_of is not None:
            return {"all": self._all(node.all_of, f"{path}.all_of", depth)}
        of = self._all(node.of or [], f"{path}.of", depth)
        return {"n": node.count, "distinct": node.distinct_sources, "of": of}

    def _all(self, nodes: list[Condition], path: str, depth: int) -> list[dict[str, Any]]:
        return [self.node(node, f"{path}[{index}]", depth + 1) for index, node in enumerate(nodes)]
