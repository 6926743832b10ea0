"""The flow graph of the census: its members and the edges between them.

    census.file (one for each .py file) ──► census.merge ──► census.approve ──► census.report
                                                 └──────────────────────────────────▲

Every edge passes a result on: its `data` names the input field that gets the result.
"""

import re
from typing import Any

from msgspec import Struct

from census.analysis import Totals

LANE = "census"
NAMESPACE = "census"
APPROVALS = "census.approvals"  # the plain NATS subject where a worker asks the human


class Draft(Struct):
    """The draft that the human is asked to approve."""

    totals: Totals


class Question(Struct):
    """The question to the human. Anyone with the token can answer, so send it to nobody else."""

    text: str
    waitpoint_id: str
    token: str


class Approval(Struct):
    """The human's answer: the payload of the signal `approved`."""

    approved_by: str


def members(paths: list[str], report_file: str) -> list[dict[str, Any]]:
    """Return the members of the flow, each with its key."""
    return [
        *(_member(key, "census.file", path=path) for path, key in file_keys(paths).items()),
        _member("merge", "census.merge"),
        _member("approve", "census.approve"),
        _member("report", "census.report", file=report_file),
    ]


def edges(paths: list[str]) -> list[dict[str, str]]:
    """Return the edges of the flow. An edge's `data` says under which input field the result is passed on."""
    return [
        *({"from": key, "to": "merge", "data": path} for path, key in file_keys(paths).items()),
        {"from": "merge", "to": "approve", "data": "totals"},
        {"from": "merge", "to": "report", "data": "totals"},
        {"from": "approve", "to": "report", "data": "approval"},
    ]


def _member(key: str, kind: str, **input: str) -> dict[str, Any]:
    # The second attempt is for a handler that raises. The death of a worker uses up no attempt.
    return {"key": key, "kind": kind, "lane": LANE, "input": input, "max_attempts": 2}


def file_keys(paths: list[str]) -> dict[str, str]:
    """Map each path to a member key: `json/decoder.py` → `json-decoder`. Equal keys get a number."""
    keys: dict[str, str] = {}
    taken = {"merge", "approve", "report"}
    for path in paths:
        base = key = re.sub(r"[^A-Za-z0-9_-]", "-", path.removesuffix(".py"))[-120:]
        number = 1
        while key in taken:
            number += 1
            key = f"{base}-{number}"
        taken.add(key)
        keys[path] = key
    return keys
