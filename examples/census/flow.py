"""The shape of the census: what runs, and what waits for what.

    census.file (one for each .py file) ──► census.merge ──► census.approve ──► census.report
                                                 └──────────────────────────────────▲

Every arrow hands a result on: `data` names the input field that it becomes.
"""

import re
from typing import Any

from msgspec import Struct

from census.analysis import Totals

LANE = "census"
NAMESPACE = "census"
APPROVALS = "census.approvals"  # the plain NATS subject where a worker asks the human


class Draft(Struct):
    """What the human is asked to approve."""

    totals: Totals


class Question(Struct):
    """How the human is asked. Whoever has the token can answer, so it goes to nobody else."""

    text: str
    waitpoint_id: str
    token: str


class Approval(Struct):
    """The human's answer: the payload of the signal `approved`."""

    approved_by: str


def members(paths: list[str], report_file: str) -> list[dict[str, Any]]:
    """Everything that is to be done, each under its key."""
    return [
        *(_member(key, "census.file", path=path) for path, key in file_keys(paths).items()),
        _member("merge", "census.merge"),
        _member("approve", "census.approve"),
        _member("report", "census.report", file=report_file),
    ]


def edges(paths: list[str]) -> list[dict[str, str]]:
    """What waits for what, and what becomes of the results."""
    return [
        *({"from": key, "to": "merge", "data": path} for path, key in file_keys(paths).items()),
        {"from": "merge", "to": "approve", "data": "totals"},
        {"from": "merge", "to": "report", "data": "totals"},
        {"from": "approve", "to": "report", "data": "approval"},
    ]


def _member(key: str, kind: str, **input: str) -> dict[str, Any]:
    # A worker that dies costs no attempt; the second one is for a handler that raises.
    return {"key": key, "kind": kind, "lane": LANE, "input": input, "max_attempts": 2}


def file_keys(paths: list[str]) -> dict[str, str]:
    """path → member key: `json/decoder.py` → `json-decoder`. A number tells equal ones apart."""
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
