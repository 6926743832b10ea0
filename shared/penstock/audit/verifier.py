"""Verify that a chain of audit events is whole. Pure code, independent of the source of the events."""

import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from penstock.audit.form import GENESIS, PARTITION, REWOUND, unseal


class Problem(NamedTuple):
    """A defect of the chain. `kind`: edited, broken_link, removed and reordered (messages of the stream), missing and
    repeated (an entity's events), not_an_event (it has prev_hash and hash, but no valid entity, id and seq), cut_off (a
    file has no end)."""

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
    rewinds: int = 0
    """How often Valkey had lost changes whose events are here (event `state_rewound`)."""
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
            where = f" at stream sequence {first.stream_seq}" if first.stream_seq else ""
            return f"BROKEN{where}: {first.message}{others}; {span}"
        if not self.events and not self.strangers:
            return "there are no events in the stream" + (" any more" if self.head_cut else "")
        start = f"; older ones are not here: the proof starts at {self.first_seq}" if self.head_cut else ""
        others = ""
        if self.strangers:
            others = (
                f"; {self.strangers} messages in the stream are none of Penstock's, the first at {self.first_stranger}:"
                " somebody else may publish there"
            )
        rewound = ""
        if self.rewinds:
            rewound = f"; Valkey's state was rewound {self.rewinds} times: `penstock audit rewound` says what was lost"
        return f"the chain is whole: {span}; last hash {self.last_hash}{start}{others}{rewound}"


class _Key(Struct, gc=False):
    entity: str
    id: str
    seq: int
    event: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Rewound(Struct):
    partition: int


_key: Final = msgspec.json.Decoder(_Key).decode
_rewound: Final = msgspec.json.Decoder(_Rewound).decode
_partition: Final = re.compile(r"\S+ ([0-9]{1,5})-[0-9a-f]{8}-").match
"""The partition in `<entity> <id>`. Lanes, workers and rules have names as ids, which say no partition."""


class Verifier:
    """Verifier that is fed messages one by one, in stream order; `finish` completes its `report`.

    `selection`: the messages are a selection, so that stream sequences may be left out, and an entity's events too.
    """

    KEPT: Final = 20
    ENTITIES: Final = 1_000_000
    """So many entities' last `seq` are kept (about 200 MB); the one heard of least recently is forgotten first."""

    def __init__(self, *, selection: bool = False) -> None:
        self.report = Report()
        self._selection = selection
        self._prev = GENESIS
        self._seqs: dict[str, int] = {}
        self._forgot = False
        self._gaps: list[tuple[int, int]] = []
        """Stream sequences that did not come (yet)."""
        self._absent: dict[tuple[str, int], Problem] = {}
        """Events of entities that did not come (yet)."""
        self._loose: set[str] = set()
        """Entities whose state was rewound, so that their next event may have a lower number."""

    def expect(self, first_seq: int) -> None:
        """Say which stream sequence must be the first."""
        self.report.first_seq, self.report.last_seq = first_seq, first_seq - 1
        self.report.head_cut = first_seq > 1

    def feed(self, stream_seq: int, body: bytes) -> None:
        """Check the next message of the stream."""
        report = self.report
        in_place, follows = True, not self._selection
        if report.first_seq == 0:
            report.first_seq = stream_seq
            report.head_cut = stream_seq > 1
            follows = not report.head_cut
        elif stream_seq <= report.last_seq:
            in_place = False
            self._displaced(stream_seq)
        elif stream_seq > report.last_seq + 1:
            follows = False
            if not self._selection:
                self._gap(report.last_seq + 1, stream_seq - 1)
        else:
            follows = report.events > 0 or not report.head_cut
        if in_place:
            report.last_seq = stream_seq
        parts = unseal(body)
        if parts is None:
            report.strangers += 1
            if report.first_stranger is None:
                report.first_stranger = stream_seq
            return
        report.events += 1
        form, prev, digest = parts
        if in_place and follows and prev != self._prev:
            self._problem(stream_seq, "broken_link", "its prev_hash is not the hash of the event before it")
        if hashlib.sha256(prev + form).hexdigest().encode() != digest:
            self._problem(stream_seq, "edited", "its hash does not fit its content")
        if in_place:
            self._prev = digest
            report.last_hash = digest.decode()
        try:
            key = _key(form)
            if key.entity == PARTITION and key.event == REWOUND:
                self._rewind(_rewound(key.data).partition)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._problem(stream_seq, "not_an_event", "the message is no audit event")
            return
        self._follow(stream_seq, key, in_place)

    def _follow(self, stream_seq: int, key: _Key, in_place: bool) -> None:
        """Check that the entity's events are numbered without a gap."""
        name = f"{key.entity} {key.id}"
        if not in_place:
            if self._absent.pop((name, key.seq), None) is None and self._seqs.get(name) == key.seq - 1:
                self._seqs[name] = key.seq  # the entity's later events are still to come
            return
        last = self._seqs.pop(name, None)
        self._seqs[name] = key.seq
        if len(self._seqs) > self.ENTITIES:
            del self._seqs[next(iter(self._seqs))]
            self._forgot = True
        loose = bool(self._loose) and name in self._loose
        if loose:
            self._loose.discard(name)
        if last is None:
            self.report.entities += not self._forgot or key.seq == 1
            if key.seq != 1 and not (self.report.head_cut or self._selection or self._forgot):
                self._miss(stream_seq, name, 0, key.seq, f"{name} begins with event {key.seq}, not 1")
        elif key.seq <= last:
            if not loose:
                self._problem(stream_seq, "repeated", f"{name}: event {key.seq} follows event {last}")
        elif key.seq > last + 1 and not self._selection:
            self._miss(stream_seq, name, last, key.seq, f"{name}: event {key.seq} follows event {last}")

    def _rewind(self, partition: int) -> None:
        self.report.rewinds += 1
        for name in self._seqs:
            found = _partition(name)
            if found is None or int(found[1]) == partition:
                self._loose.add(name)

    def _gap(self, first: int, last: int) -> None:
        if len(self._gaps) < self.KEPT:
            self._gaps.append((first, last))
        else:
            self._removed(first, last)

    def _displaced(self, stream_seq: int) -> None:
        last = self.report.last_seq
        for number, (low, high) in enumerate(self._gaps):
            if low <= stream_seq <= high:
                self._gaps[number : number + 1] = [
                    (a, b) for a, b in ((low, stream_seq - 1), (stream_seq + 1, high)) if a <= b
                ]
                self._problem(
                    stream_seq, "reordered", f"it comes after {last}, but belongs before {high + 1}"
                )
                return
        kind = "reordered" if self._selection else "repeated"
        self._problem(stream_seq, kind, f"{stream_seq} comes (again) after {last}")

    def _miss(self, stream_seq: int, name: str, last: int, seq: int, message: str) -> None:
        problem = Problem(stream_seq, "missing", message)
        if len(self._absent) + seq - last > self.KEPT * self.KEPT:
            self.add(problem)
            return
        for number in range(last + 1, seq):
            self._absent[name, number] = problem

    def finish(self, last_seq: int | None = None) -> Report:
        """Finish and return the report. `last_seq`: the last sequence that there must be, if the caller knows it."""
        report = self.report
        for gap in self._gaps:
            self._removed(*gap)
        for problem in dict.fromkeys(self._absent.values()):
            self.add(problem)
        self._gaps, self._absent = [], {}
        report.problems.sort(key=lambda problem: problem.stream_seq)  # a stable sort
        if last_seq is None:
            return report
        if not report.events and not report.strangers:
            report.head_cut = last_seq > 0
        elif report.last_seq < last_seq:
            self._problem(last_seq, "removed", f"the messages end at {report.last_seq}, not {last_seq}")
        return report

    def _removed(self, first: int, last: int) -> None:
        what = f"{first} is missing" if first == last else f"{first} to {last} are missing"
        self._problem(last + 1, "removed", f"after {first - 1} comes {last + 1}: {what}")

    def _problem(self, stream_seq: int, kind: str, message: str) -> None:
        self.add(Problem(stream_seq, kind, message))

    def add(self, problem: Problem) -> None:
        """Add a problem that the caller has found."""
        self.report.problem_count += 1
        if len(self.report.problems) < self.KEPT:
            self.report.problems.append(problem)


def verify_messages(messages: Iterable[tuple[int, bytes]]) -> Report:
    """Verify (stream sequence, body) pairs from any source, without the check of the stream's end (`finish`)."""
    verifier = Verifier()
    for stream_seq, body in messages:
        verifier.feed(stream_seq, body)
    return verifier.finish()
