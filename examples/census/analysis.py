"""The counting of the census, as pure functions without Penstock.

`analyse` counts one file, `merge` adds the files up, and `report` formats the totals. `direct` does the whole
job in one plain loop, for comparison with the flow's totals.
"""

import ast
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

NOT_STANDARD = {"site-packages", "dist-packages"}
TOP = 10


class FileCensus(Struct, frozen=True, omit_defaults=True):
    """The counts of one file. `imports` has the number of imports of each top-level module."""

    lines: int
    functions: int = 0
    classes: int = 0
    imports: dict[str, int] = {}
    error: str | None = None  # why the file does not parse; then only its lines are counted


class Totals(Struct, frozen=True):
    """The counts of all files together."""

    files: int
    lines: int
    functions: int
    classes: int
    imports: int
    modules: dict[str, int]  # the most imported modules
    longest: dict[str, int]  # the files with most lines
    unparsable: dict[str, str]  # path → error


def stdlib_root() -> Path:
    """Return the directory of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def stdlib_files(root: Path) -> list[str]:
    """Return the library's .py files, relative to `root` and sorted, without installed packages."""
    files = (path.relative_to(root) for path in root.rglob("*.py") if path.is_file())
    return sorted(path.as_posix() for path in files if NOT_STANDARD.isdisjoint(path.parts))


def analyse(source: bytes) -> FileCensus:
    """Count one file. A file that does not parse gives a result with `error` set, not a failure.

    The standard library has such files on purpose: bad examples for its own tests.
    """
    lines = source.count(b"\n") + (not source.endswith(b"\n") and source != b"")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return FileCensus(lines=lines, error=type(error).__name__)
    kinds: Counter[type[ast.stmt]] = Counter()
    imports: Counter[str] = Counter()
    for node in statements(tree):
        kinds[type(node)] += 1
        if isinstance(node, ast.Import):
            imports.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "" if node.level else node.module or ""  # a relative import counts as "."
            imports[module.partition(".")[0] or "."] += 1
    return FileCensus(
        lines=lines,
        functions=kinds[ast.FunctionDef] + kinds[ast.AsyncFunctionDef],
        classes=kinds[ast.ClassDef],
        imports=dict(sorted(imports.items())),
    )


def statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield every statement, at any depth. Nested statements are only in the five fields below. Expressions, which
    are most of a tree, contain none and are skipped, so this is much faster than `ast.walk`."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.stmt):
            yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo += getattr(node, field, ())


def merge(files: Mapping[str, FileCensus]) -> Totals:
    """Add up the files (path → census). Their order does not matter."""
    modules: Counter[str] = Counter()
    for file in files.values():
        modules.update(file.imports)
    return Totals(
        files=len(files),
        lines=sum(file.lines for file in files.values()),
        functions=sum(file.functions for file in files.values()),
        classes=sum(file.classes for file in files.values()),
        imports=modules.total(),
        modules=_top(modules),
        longest=_top({path: file.lines for path, file in files.items()}),
        unparsable={path: file.error for path, file in sorted(files.items()) if file.error is not None},
    )


def _top(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the TOP largest counts. Ties are ordered by name, so that the result is always the same."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP])


def direct(root: Path, paths: list[str]) -> Totals:
    """Do the whole census in one plain loop. The flow must get the same totals."""
    return merge({path: analyse((root / path).read_bytes()) for path in paths})


def report(totals: Totals, approved_by: str) -> str:
    """Format the census as Markdown."""
    rows = {
        "files": totals.files,
        "lines": totals.lines,
        "functions": totals.functions,
        "classes": totals.classes,
        "imports": totals.imports,
        "files that do not parse": len(totals.unparsable),
    }
    sections = [
        "# Census of the Python standard library",
        f"Approved by {approved_by}.",
        _table("what", "count", rows),
        "## Most imported (`.` is a relative import)",
        _table("module", "imports", _as_code(totals.modules)),
        "## Longest files",
        _table("file", "lines", _as_code(totals.longest)),
    ]
    if totals.unparsable:
        sections += [
            "## Files that do not parse",
            "\n".join(f"- `{path}`: {why}" for path, why in totals.unparsable.items()),
        ]
    return "\n\n".join(sections) + "\n"


def _as_code(rows: Mapping[str, int]) -> dict[str, int]:
    return {f"`{name}`": count for name, count in rows.items()}


def _table(name: str, count: str, rows: Mapping[str, int]) -> str:
    lines = [f"| {name} | {count} |", "| --- | ---: |"]
    return "\n".join(lines + [f"| {key} | {value:,} |" for key, value in rows.items()])
