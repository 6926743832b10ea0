"""Which signals a condition still needs, in words. Conditions and tallies are lua/waitpoint/conditions.lua's."""

from collections.abc import Mapping
from typing import Any

from penstock_scheduler.explaining.phrases import some


def missing_signals(condition: Mapping[str, Any] | None, tally: Mapping[str, Any]) -> list[str]:
    """What is still needed, each a phrase: `a signal 'approved'`, `2 more of …`. All of them are needed."""
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
    """The names of signals that count for this node."""
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
