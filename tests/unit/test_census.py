"""The pure parts of the census example: its counts, the shape of its flow, the findings of its checks."""

import ast
from pathlib import Path

import pytest

from census import analysis, flow
from census.analysis import FileCensus
from census.trail import AuditTrail
from penstock import AuditEvent, verbs
from penstock.client._options import request_of
from penstock.messages.common import Record

SOURCE = b'''\
"""A docstring: def not_a_function()."""
import os.path, sys
from collections.abc import Mapping
from . import sibling
from .cousin import thing

async def outer():
    def inner():
        import sys
    return inner

class Thing:
    def method(self): ...
'''


def test_counts_lines_definitions_and_imports() -> None:
    assert analysis.analyse(SOURCE) == FileCensus(
        lines=13, functions=3, classes=1, imports={".": 2, "collections": 1, "os": 1, "sys": 2}
    )


@pytest.mark.parametrize("path", ["ast.py", "asyncio/tasks.py", "dataclasses.py", "os.py", "typing.py"])
def test_no_statement_is_overlooked(path: str) -> None:
    tree = ast.parse((analysis.stdlib_root() / path).read_bytes())
    everything = {node for node in ast.walk(tree) if isinstance(node, ast.stmt)}
    found = list(analysis.statements(tree))
    assert len(found) == len(everything)
    assert set(found) == everything


def test_statements_stand_in_every_kind_of_block() -> None:
    source = """
match x:
    case 1: import a
try: import b
except E: import c
else: import d
finally: import e
while x: import f
else: import g
with x: import h
if (lambda: 1)(): pass
elif y: import i
"""
    assert list(analysis.analyse(source.encode()).imports) == list("abcdefghi")


@pytest.mark.parametrize(
    ("source", "lines"),
    [(b"", 0), (b"x = 1", 1), (b"x = 1\n", 1), (b"x = 1\n\n", 2), (b"x = 1\r\ny = 2\r\n", 2)],
)
def test_lines_are_counted_with_and_without_a_last_newline(source: bytes, lines: int) -> None:
    assert analysis.analyse(source).lines == lines


@pytest.mark.parametrize(
    "source",
    [
        b"print 'python 2'\n",
        b"x = '\xff'\n",
        b"# coding: no-such-codec\n",
        b"x = '\x00'\n",
        b"(" * 5000 + b"\n",
    ],
    ids=["syntax", "encoding", "codec", "null byte", "nested too deep"],
)
def test_what_does_not_parse_is_a_result(source: bytes) -> None:
    result = analysis.analyse(source)
    assert result.error is not None
    assert (result.lines, result.functions, result.imports) == (1, 0, {})


def test_merge_adds_up_in_any_order() -> None:
    files = {
        "a.py": FileCensus(lines=3, functions=1, imports={"os": 2}),
        "b.py": FileCensus(lines=5, classes=2, imports={"os": 1, "ast": 3}),
        "bad.py": FileCensus(lines=7, error="SyntaxError"),
    }
    totals = analysis.merge(files)
    assert totals == analysis.merge(dict(reversed(files.items())))
    assert (totals.files, totals.lines, totals.functions, totals.classes, totals.imports) == (3, 15, 1, 2, 6)
    assert list(totals.modules.items()) == [("ast", 3), ("os", 3)], "equal counts stand in order of name"
    assert totals.longest == {"bad.py": 7, "b.py": 5, "a.py": 3}
    assert totals.unparsable == {"bad.py": "SyntaxError"}


def test_merge_of_nothing() -> None:
    assert analysis.merge({}).files == 0


def test_the_files_are_the_library_without_installed_packages(tmp_path: Path) -> None:
    for name in ("b.py", "a/__init__.py", "site-packages/x.py", "dist-packages/y.py", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x = 1\n")
    (tmp_path / "folder.py").mkdir()
    assert analysis.stdlib_files(tmp_path) == ["a/__init__.py", "b.py"]
    assert analysis.direct(tmp_path, ["a/__init__.py", "b.py"]).lines == 2


def test_this_pythons_library_is_large_enough_for_the_demo() -> None:
    assert len(analysis.stdlib_files(analysis.stdlib_root())) >= 600


def test_report_names_what_did_not_parse() -> None:
    files = {
        "a.py": FileCensus(lines=1234, imports={"os": 1}),
        "bad.py": FileCensus(lines=1, error="SyntaxError"),
    }
    text = analysis.report(analysis.merge(files), "Ada")
    assert "Approved by Ada." in text
    assert "| lines | 1,235 |" in text
    assert "| `os` | 1 |" in text
    assert "- `bad.py`: SyntaxError" in text
    assert "do not parse\n\n-" not in analysis.report(analysis.merge({}), "Ada")


def test_every_file_has_a_key_of_its_own() -> None:
    paths = ["a/b.py", "a-b.py", "a.b.py", "merge.py", "ä.py", f"{'long/' * 50}x.py", f"{'other/' * 50}x.py"]
    keys = flow.file_keys(paths)
    assert list(keys) == paths
    assert len(set(keys.values()) | {"merge", "approve", "report"}) == len(paths) + 3
    assert keys["a/b.py"] == "a-b"
    assert keys["merge.py"] == "merge-2"


def test_the_flow_of_the_whole_library_is_a_valid_request() -> None:
    paths = analysis.stdlib_files(analysis.stdlib_root())
    fields = {
        "controller_id": "demo",
        "owner": "census",
        "goal": "count",
        "members": flow.members(paths, "report.md"),
        "edges": flow.edges(paths),
    }
    request = request_of(verbs.FLOW_CREATE, fields)
    assert len(request.members) == len(paths) + 3
    assert len(request.edges) == len(paths) + 3
    keys = {member.key for member in request.members}
    assert {edge.from_ for edge in request.edges} | {edge.to for edge in request.edges} == keys


def event(
    id: str, seq: int, name: str, at: int = 0, moved: tuple[str, str] | tuple[None, None] = (None, None)
) -> AuditEvent:
    before, after = moved
    return AuditEvent(
        event_id=f"{id}.{seq}", seq=seq, namespace="census", entity="execution", id=id, event=name, at=at,
        from_=before, to=after,
    )  # fmt: skip


def record(id: str, state: str, seq: int) -> Record:
    return Record(
        execution_id=id,
        namespace="census",
        kind="census.file",
        lane="census",
        priority=0,
        state=state,
        seq=seq,
    )


def trail(*events: AuditEvent) -> AuditTrail:
    made = AuditTrail()
    for each in events:
        made.events[each.id].append(each)
    return made


def test_gaps_repeats_and_disorder_are_found() -> None:
    records = {id: record(id, "ready", 2) for id in ("whole", "gap", "repeat", "disorder", "nothing")}
    found = trail(
        *(event("whole", seq, "x") for seq in (1, 2)),
        *(event("gap", seq, "x") for seq in (2,)),
        *(event("repeat", seq, "x") for seq in (1, 2, 2)),
        *(event("disorder", seq, "x") for seq in (2, 1)),
    )
    assert found.gaps(records) == {"gap", "repeat", "disorder", "nothing"}


def test_completions_are_counted() -> None:
    states = {
        "once": "completed",
        "twice": "completed",
        "never": "completed",
        "stray": "canceled",
        "stopped": "canceled",
    }
    records = {id: record(id, state, 1) for id, state in states.items()}
    names = ("once", "twice", "twice", "stray")
    found = trail(*(event(id, 1, "completed") for id in names), event("stopped", 1, "canceled"))
    assert found.wrong_endings(records) == {"twice", "never", "stray"}


def test_what_began_after_the_cancellation_is_found() -> None:
    records = {id: record(id, "completed", 2) for id in ("before", "held", "after", "at once")}
    found = trail(
        event("flow", 3, "cancelled", 100),
        event("before", 1, "started", 100, ("ready", "running")),
        event("before", 2, "completed", 105, ("running", "completed")),
        event("held", 1, "leased", 100, ("ready", "leased")),
        event("held", 2, "started", 101, ("leased", "running")),
        event("after", 1, "leased", 101, ("ready", "leased")),
        event("at once", 1, "started", 101, ("ready", "running")),
    )
    assert found.begun_late("flow", records) == {"after", "at once"}
    assert found.completed(records) == 1
