"""What deploy/ says, read for tests: its documents, and the PromQL of alerts, dashboard and scaling."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import promql_parser
import yaml

from penstock.verbs import SERVICES as _SERVICES

REPOSITORY: Final = Path(__file__).resolve().parents[1]
DEPLOY: Final = REPOSITORY / "deploy"
OPERATIONS: Final = REPOSITORY / "docs" / "operations.md"
SERVICES: Final = frozenset(map(str, _SERVICES))
GATEWAY: Final = "gateway"
"""The process that is no service of NATS, and optional."""


class Selector(NamedTuple):
    """A metric that an expression asks for. values: (label, value) pairs that must exist for it to find anything."""

    place: str
    metric: str
    labels: frozenset[str]
    values: frozenset[tuple[str, str]]


def documents(name: str) -> list[Any]:
    """Return the YAML documents of a file under deploy/."""
    return [each for each in yaml.safe_load_all((DEPLOY / name).read_text()) if each is not None]


def alerts() -> list[dict[str, Any]]:
    (rules,) = documents("prometheus/alerts.yaml")
    return [rule for group in rules["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())


def expressions() -> Iterator[tuple[str, str]]:
    """Yield (where it stands, PromQL) for each expression."""
    for alert in alerts():
        yield alert["alert"], alert["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            # Grafana fills in its variables before it asks.
            text = target["expr"].replace("$__rate_interval", "5m")
            yield f"panel {panel['title']!r}", re.sub(r'"\$(lane|verb)"', '".*"', text)
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
            yield f"variable {variable['name']!r}", f"count by ({label}) ({metric})"
    (scaled,) = documents("kubernetes/components/keda/scaled-object.yaml")
    for trigger in scaled["spec"]["triggers"]:
        yield "ScaledObject", trigger["metadata"]["query"]


def selectors(place: str, expression: str) -> list[Selector]:
    """Parse an expression, and return what it asks for. Labels that it groups by count for each metric below them.

    Raise ValueError for what is no PromQL.
    """
    found: list[Selector] = []
    _collect(place, promql_parser.parse(expression), frozenset(), found)
    return found


def _collect(place: str, node: Any, grouped: frozenset[str], found: list[Selector]) -> None:
    match node:
        case promql_parser.AggregateExpr():
            # What an inner aggregation drops, an outer one could not group by.
            by = frozenset(node.modifier.labels) if node.modifier else frozenset[str]()
            _collect(place, node.expr, by - {"le"} | grouped, found)
        case promql_parser.MatrixSelector():
            _collect(place, node.vector_selector, grouped, found)
        case promql_parser.VectorSelector():
            matchers = node.matchers.matchers
            values = {
                (matcher.name, value)
                for matcher in matchers
                if matcher.op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.Re)
                for value in matcher.value.split("|")
                if value != ".*"
            }
            labels = grouped | {matcher.name for matcher in matchers}
            found.append(Selector(place, node.name, labels, frozenset(values)))
        case promql_parser.BinaryExpr():
            for side in (node.lhs, node.rhs):
                _collect(place, side, grouped, found)
        case promql_parser.Call():
            for argument in node.args:
                _collect(place, argument, grouped, found)
        case promql_parser.ParenExpr():
            _collect(place, node.expr, grouped, found)
        case _:
            assert isinstance(node, promql_parser.NumberLiteral), f"{place}: teach this test {node!r}"
