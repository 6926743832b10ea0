"""Verify that a chain of audit events is whole. Pure code, independent of the source of the events."""

import hashlib
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from penstock.audit.form import GENESIS, unseal


class Problem(NamedTuple):
    """A defect of the chain. `kind`: edited, broken_link, missing, repeated, removed, not_an_event (a message that has
    prev_hash and hash, but no valid entity, id and seq)."""

    stream_seq: int
    kind: str
    message: str


class Report(Struct):
    """The result of a verification. `ok` is true if no problem was found in the events that are there."""

    events: int = 0
    entities: int = 0
    first_seq: int = 0
    last_seq: int = 0
    head_cut: bool = False
    """Whether the stream has dropped older events by its limits: the proof then starts at `first_seq`."""
    last_hash: str = GENESIS.decode()
    strangers: int = 0
    """Number of messages that are no events and no links of the chain: another program may publish to the stream."""
    first_stranger: int | None = None
    """The stream sequence of the first such message."""
    problem_count: int = 0
    problems: list[Problem] = []
    """The first problems, at most `Verifier.KEPT`."""

    @property
    def ok(self) -> bool:
        return self.problem_count == 0

    def sentence(self) -> str:
        """Return the result as one sentence."""
        span = f"{self.events} events of {self.entities} entities, stream {self.first_seq} to {self.last_seq}"
        if not self.ok:
            first = self.problems[0]
            others = f" ({self.problem_count} problems in all)" if self.problem_count > 1 else ""
            return f"BROKEN at stream sequence {first.stream_seq}: {first.message}{others}; {span}"
        if not self.events and not self.strangers:
            return "there are no events in the stream" + (" any more" if self.head_cut else "")
        start = f"; older ones have left it: the proof starts at {self.first_seq}" if self.head_cut else ""
        others = ""
        if self.strangers:
            others = (
                f"; {self.strangers} messages in the stream are none of Penstock's, the first at {self.first_stranger}:"
                " somebody else may publish there"
            )
        return f"the chain is whole: {span}; last hash {self.last_hash}{start}{others}"


class _Key(Struct, gc=False):
    entity: str
    id: str
    seq: int


_key: Final = msgspec.json.Decoder(_Key).decode


class Verifier:
    """Verifier that is fed messages one by one, in stream order; `report` holds the result so far."""

    KEPT: Final = 20

    def __init__(self) -> None:
        self.report = Report()
        self._prev = GENESIS
        self._seqs: dict[str, int] = {}

    def feed(self, stream_seq: int, body: bytes) -> None:
        """Check the next message of the stream."""
        report = self.report
        if report.first_seq == 0:
            report.first_seq = stream_seq
            report.head_cut = stream_seq > 1
        elif stream_seq != report.last_seq + 1:
            self._problem(stream_seq, "removed", f"after {report.last_seq} comes {stream_seq} in the stream")
        report.last_seq = stream_seq
        parts = unseal(body)
        if parts is None:
            report.strangers += 1
            if report.first_stranger is None:
                report.first_stranger = stream_seq
            return
        report.events += 1
        form, prev, digest = parts
        if prev != self._prev and not (report.head_cut and report.events == 1):
            self._problem(stream_seq, "broken_link", "its prev_hash is not the hash of the event before it")
        if hashlib.sha256(prev + form).hexdigest().encode() != digest:
            self._problem(stream_seq, "edited", "its hash does not fit its content")
        self._prev = digest
        report.last_hash = digest.decode()
        try:
            key = _key(form)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._problem(stream_seq, "not_an_event", "the message is no audit event")
            return
        self._follow(stream_seq, key)

    def _follow(self, stream_seq: int, key: _Key) -> None:
        name = f"{key.entity} {key.id}"
        last = self._seqs.get(name)
        self._seqs[name] = key.seq
        if last is None:
            self.report.entities += 1
            if key.seq != 1 and not self.report.head_cut:
                self._problem(stream_seq, "missing", f"{name} begins with event {key.seq}, not 1")
        elif key.seq != last + 1:
            kind = "missing" if key.seq > last else "repeated"
            self._problem(stream_seq, kind, f"{name}: event {key.seq} follows event {last}")

    def finish(self, last_seq: int) -> Report:
        """Finish and return the report. `last_seq` is the last sequence as the stream's info gives it."""
        report = self.report
        if not report.events and not report.strangers:
            report.head_cut = last_seq > 0
        elif report.last_seq < last_seq:
            self._problem(last_seq, "removed", f"the messages end at {report.last_seq}, not {last_seq}")
        return report

    def _problem(self, stream_seq: int, kind: str, message: str) -> None:
        self.report.problem_count += 1
        if len(self.report.problems) < self.KEPT:
            self.report.problems.append(Problem(stream_seq, kind, message))


def verify_messages(messages: Iterable[tuple[int, bytes]]) -> Report:
    """Verify (stream sequence, body) pairs from any source, without the check of the stream's end (`finish`)."""
    verifier = Verifier()
    for stream_seq, body in messages:
        verifier.feed(stream_seq, body)
    return verifier.report
