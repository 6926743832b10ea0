"""Checks conditions of waitpoints, compiles them for lua/waitpoint/conditions.lua, and describes them in words."""

from collections.abc import Mapping
from typing import Any, Final

from penstock.errors import invalid
from penstock.messages.signals import Condition
from penstock.words import some

MAX_DEPTH: Final = 16
MAX_NODES: Final = 64
"""The most nodes of one condition: the state machine walks over all of them for each signal."""


def compiled(condition: Condition | None) -> dict[str, Any] | None:
    """Compile a condition for the state machine; None stands for any signal. Raise PenstockError("invalid_request")."""
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


def as_written(node: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a compiled condition back into the contract's form."""
    if "name" in node:
        return {"name": node["name"]}
    if "prefix" in node:
        return {"name": f"{node['prefix']}*"}
    for compiled_, written in (("any", "any_of"), ("all", "all_of")):
        if compiled_ in node:
            return {written: [as_written(each) for each in node[compiled_]]}
    distinct = {"distinct_sources": True} if node.get("distinct") else {}
    return {"count": node["n"], **distinct, "of": [as_written(each) for each in node["of"]]}


def missing_signals(condition: Mapping[str, Any] | None, tally: Mapping[str, Any]) -> list[str]:
    """Return everything that the condition still needs, as phrases: `a signal 'approved'`, `2 more of …`."""
    if condition is None:
        return ["any signal"]
    return _missing(condition, tally)


def _missing(node: Mapping[str, Any], tally: Mapping[str, Any]) -> list[str]:
    if "name" in node:
        return [] if node["name"] in tally else [f"a signal {node['name']!r}"]
    if "prefix" in node:
        return [] if _matching(node, tally) else [f"a signal '{node['prefix']}*'"]
    if "all" in node:
        return [phrase for each in node["all"] for phrase in _missing(each, tally)]
    if "any" in node:
        branches = [_missing(each, tally) for each in node["any"]]
        if not all(branches):
            return []
        return [" or ".join(" with ".join(branch) for branch in branches)]
    names = _matching(node, tally)
    if node.get("distinct"):
        have = len({source for name in names for source in tally[name]["s"]})
    else:
        have = sum(tally[name]["n"] for name in names)
    if have >= node["n"]:
        return []
    sources = " from other sources" if node.get("distinct") and have else ""
    return [f"{node['n'] - have} more of {some(_leaves(node), len(_leaves(node)), ' or ')}{sources}"]


def _matching(node: Mapping[str, Any], tally: Mapping[str, Any]) -> set[str]:
    """Return the names of received signals that count for this node."""
    if "name" in node:
        return {node["name"]} & tally.keys()
    if "prefix" in node:
        return {name for name in tally if name.startswith(node["prefix"])}
    if "all" in node and any(_missing(each, tally) for each in node["all"]):
        return set()
    branches = node.get("any") or node.get("all") or node["of"]
    return {name for each in branches for name in _matching(each, tally)}


def _leaves(node: Mapping[str, Any]) -> list[str]:
    if "name" in node:
        return [repr(node["name"])]
    if "prefix" in node:
        return [f"'{node['prefix']}*'"]
    branches = node.get("any") or node.get("all") or node["of"]
    return [leaf for each in branches for leaf in _leaves(each)]
