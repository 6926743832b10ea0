"""An exported audit trail: a file that proves itself, without a server.

The file is JSON Lines. The first line says what was exported, the last one that nothing was cut off::

    {"penstock_audit_export":1,"root":…,"first_seq":…,"last_seq":…,"since":…,"until":…,"selected":{…}}
    {…a stored event, byte for byte…,"stream_seq":1}
    {…,"stream_seq":2}
    {"penstock_audit_end":1,"messages":2,"last_hash":…,"sha256":…}

An event's line is the stored event (penstock.audit.form) with its stream sequence put before the last `}`. `sha256` is
that of all bytes before the last line. A message of the stream that is no event becomes `{"stranger":<size>,…}`.
`selected` holds the filters: without any, the lines are all messages from `first_seq` to `last_seq`, and every link of
the chain is verified. The lines of a selection are verified each by its own hash, and all together by `sha256`.
"""

import hashlib
import re
from collections.abc import Callable
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from penstock.audit.form import unseal
from penstock.audit.verifier import Problem, Report, Verifier

FORMAT: Final = 1
LINE_MOST: Final = 64 * 2**20
"""Most bytes of a line: messages of NATS are smaller. A longer line counts as cut off."""
_NUMBERED: Final = re.compile(rb',"stream_seq":([0-9]{1,18})\}\n').fullmatch
_TAIL: Final = 40
TOLD_EVERY: Final = 1000


class NotAnExport(Exception):
    """The file is no exported audit trail that this version can read."""


class Head(Struct, kw_only=True):
    """The first line. since, until: the limits by which the messages were asked for, as texts; or None."""

    penstock_audit_export: int = FORMAT
    root: str
    first_seq: int
    last_seq: int
    since: str | None = None
    until: str | None = None
    selected: dict[str, str] = {}


class End(Struct, kw_only=True):
    """The last line."""

    penstock_audit_end: int = FORMAT
    messages: int
    last_hash: str
    sha256: str


class Writer:
    """Writes an export: `add` for each message of the stream, in order, then `finish`."""

    def __init__(self, file: BinaryIO, head: Head) -> None:
        self.messages = 0
        self._file = file
        self._sum = hashlib.sha256()
        self._last_hash = ""
        self._write(msgspec.json.encode(head) + b"\n")

    def add(self, stream_seq: int, body: bytes) -> None:
        parts = unseal(body)
        if parts is None:
            body = b'{"stranger":%d}' % len(body)
        else:
            self._last_hash = parts[2].decode()
        self._write(b'%b,"stream_seq":%d}\n' % (body[:-1], stream_seq))
        self.messages += 1

    def finish(self) -> None:
        end = End(messages=self.messages, last_hash=self._last_hash, sha256=self._sum.hexdigest())
        self._file.write(msgspec.json.encode(end) + b"\n")
        self._file.flush()

    def _write(self, line: bytes) -> None:
        self._sum.update(line)
        self._file.write(line)


def verify_file(file: BinaryIO, progress: Callable[[int, int], object] | None = None) -> tuple[Head, Report]:
    """Verify an exported trail, line by line, in bounded memory. Call `progress(done, total)` now and then.

    Raise NotAnExport if the first line is not that of an export, OSError if the file cannot be read.
    """
    lines = iter(lambda: file.readline(LINE_MOST), b"")
    first = next(lines, b"")
    head = _head(first)
    checksum = hashlib.sha256(first)
    verifier = Verifier(selection=bool(head.selected))
    report = verifier.report
    if not head.selected:
        verifier.expect(head.first_seq)
    total, messages, end = head.last_seq - head.first_seq + 1, 0, None
    strange: list[Problem] = []
    for number, line in enumerate(lines, 2):
        if not line.endswith(b"\n") or (end := _end(line)) is not None:
            break
        checksum.update(line)
        found = _NUMBERED(line, max(0, line.rfind(b",", -_TAIL)))
        if found is None:
            strange.append(Problem(report.last_seq, "not_an_event", f"line {number} is none of an export"))
            continue
        messages += 1
        verifier.feed(int(found[1]), line[: found.start()] + b"}")
        if progress is not None and not messages % TOLD_EVERY:
            progress(messages, total)
    verifier.finish(None if head.selected or end is None else head.last_seq)
    for problem in strange:
        verifier.add(problem)
    if end is None:
        text = f"the file is cut off: it ends after stream sequence {report.last_seq}, without its last line"
        verifier.add(Problem(report.last_seq, "cut_off", text))
    elif next(lines, b""):
        verifier.add(Problem(report.last_seq, "not_an_event", "lines were added behind the last one"))
    elif report.ok and (end.messages, end.sha256) != (messages, checksum.hexdigest()):
        text = f"{messages} lines, of {end.messages} that were exported: some were changed, removed or put in"
        verifier.add(Problem(0, "edited", text))
    report.problems.sort(key=lambda problem: problem.stream_seq)
    return head, report


def _head(line: bytes) -> Head:
    try:
        head = msgspec.json.decode(line, type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise NotAnExport(
            "it does not begin like a file of `penstock audit export` (or its first line was removed)"
        ) from None
    if head.penstock_audit_export > FORMAT:
        raise NotAnExport("a newer Penstock wrote it: verify it with that version")
    return head


def _end(line: bytes) -> End | None:
    if not line.startswith(b'{"penstock_audit_end"'):
        return None
    try:
        return msgspec.json.decode(line, type=End)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
