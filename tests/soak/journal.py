"""What the load and the workers got acknowledged, as JSON lines in a folder. The checker holds it against the trail.

The module imports nothing of Penstock. A line has `what`:

execution  id, key (idempotency key), unique (unique key), quota (its id) and most (its max_concurrent); each optional
           but the id
flow       id
signal     waitpoint, id: stored by JetStream
event      id, flows: those that waited for it when it was published
observation  flow, run, status, at: stored by JetStream
triggered  id: a message that a trigger makes one execution of, of the kind `soak.triggered`
schedule   id
outcome    execution, epoch, worker, state: what a worker was answered
usage      budget, execution, amounts: a worker reports once for an execution and budget, and repeats that report
waitpoint  waitpoint, token, votes: for the load, which publishes the signals
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """One writer's file. A line is one system call, so a killed process leaves at most its last line short."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, **facts: Any) -> None:
        os.write(self._file, json.dumps({"what": what, **facts}).encode() + b"\n")


class Tail:
    """Reads the files of a folder as they grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def news(self) -> Iterator[dict[str, Any]]:
        """Yield the whole lines that have come since the last call."""
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                *lines, _ = file.read().split(b"\n")
            self._read[path] = self._read.get(path, 0) + sum(len(line) + 1 for line in lines)
            yield from map(json.loads, lines)


def read(folder: Path) -> list[dict[str, Any]]:
    """Return all whole lines of a folder's files."""
    return list(Tail(folder).news())
