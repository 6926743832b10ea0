"""An exported audit trail: what a verification of the file says about each kind of damage."""

import io
import tracemalloc
from collections.abc import Callable, Iterable

import pytest

from penstock import audit
from penstock.audit import file as exported

Lines = list[bytes]


def event(id: str, seq: int) -> audit.Facts:
    return audit.Facts(
        f"{id}:{seq}", 1, seq, "default", "execution", id, "leased", 5, None, None, "ready", None, {"n": seq}
    )


def lines_of(
    events: Iterable[audit.Facts], first_seq: int = 1, keep: Callable[[int], bool] | None = None
) -> Lines:
    """Export these events from a stream that begins at `first_seq`; with `keep`, only a selection of them."""
    bodies: list[tuple[int, bytes]] = []
    hashed = audit.GENESIS
    for number, facts in enumerate(events, first_seq):
        body, hashed = audit.seal(audit.canonical(facts), hashed)
        bodies.append((number, body))
    selected = {"id": "a"} if keep else {}
    head = audit.Head(
        root="penstock", first_seq=first_seq, last_seq=first_seq + len(bodies) - 1, selected=selected
    )
    file = io.BytesIO()
    writer = audit.Writer(file, head)
    for number, body in bodies:
        if keep is None or keep(number):
            writer.add(number, body)
    writer.finish()
    return file.getvalue().splitlines(keepends=True)


def verify(lines: Lines) -> audit.Report:
    return audit.verify_file(io.BytesIO(b"".join(lines)))[1]


@pytest.fixture
def lines() -> Lines:
    return lines_of(event(id, seq) for seq in range(1, 6) for id in ("a", "b"))


def problems(lines: Lines) -> list[tuple[int, str]]:
    report = verify(lines)
    assert not report.ok and "BROKEN" in report.sentence()
    return [(problem.stream_seq, problem.kind) for problem in report.problems]


def test_a_whole_file_is_whole(lines: Lines):
    report = verify(lines)
    assert report.ok, report.sentence()
    assert (report.events, report.entities, report.last_seq, report.head_cut) == (10, 2, 10, False)


def test_a_line_is_the_stored_event_with_its_sequence(lines: Lines):
    body, _, rest = lines[1].rpartition(b',"stream_seq":')
    assert rest == b"1}\n"
    form, prev, digest = audit.unseal(body + b"}") or pytest.fail("not sealed")
    assert audit.seal(form, prev) == (body + b"}", digest)


def test_a_file_from_the_middle_of_the_trail_is_whole():
    report = verify(lines_of([event("a", 7), event("a", 8)], first_seq=100))
    assert report.ok and report.head_cut and "starts at 100" in report.sentence()


def test_a_file_of_no_events_is_whole():
    assert verify(lines_of([])).ok


def test_a_changed_event_is_named(lines: Lines):
    lines[5] = lines[5].replace(b'"to":"ready"', b'"to":"failed"').replace(b'"n":3', b'"n":4')
    assert problems(lines) == [(5, "edited")]


def test_a_changed_event_with_its_hash_made_anew_is_named(lines: Lines):
    body, _, rest = lines[5].rpartition(b',"stream_seq":')
    form, prev, _ = audit.unseal(body + b"}") or pytest.fail("not sealed")
    changed, _ = audit.seal(form.replace(b'"n":3', b'"n":4'), prev)
    lines[5] = changed[:-1] + b',"stream_seq":' + rest
    assert problems(lines) == [(6, "broken_link")]


def test_missing_events_are_named(lines: Lines):
    del lines[4:7]
    report = verify(lines)
    assert report.problems[0].kind == "removed"
    assert "4 to 6 are missing" in report.sentence()


def test_missing_events_are_found_when_the_rest_is_numbered_anew(lines: Lines):
    moved = [
        line.rpartition(b",")[0] + b',"stream_seq":%d}\n' % number
        for number, line in enumerate([*lines[1:4], *lines[5:-1]], 1)
    ]
    assert problems([lines[0], *moved, lines[-1]])[0] == (4, "broken_link")


def test_missing_first_events_are_named(lines: Lines):
    del lines[1:3]
    assert problems(lines)[0] == (3, "removed")


def test_reordered_events_are_named_and_nothing_else(lines: Lines):
    lines[4], lines[5] = lines[5], lines[4]
    assert problems(lines) == [(4, "reordered")]


def test_an_event_put_in_twice_is_named(lines: Lines):
    lines.insert(6, lines[5])
    assert problems(lines) == [(5, "repeated")]


@pytest.mark.parametrize("last", [1, 4, 11])
def test_a_file_that_is_cut_off_says_where(lines: Lines, last: int):
    report = verify(lines[:last])
    assert [problem.kind for problem in report.problems] == ["cut_off"]
    assert f"ends after stream sequence {last - 1}" in report.sentence()


def test_a_file_that_is_cut_off_within_a_line_says_where(lines: Lines):
    assert problems([*lines[:4], lines[4][:30]]) == [(3, "cut_off")]
    assert problems([*lines[:11], lines[11][:30]]) == [(10, "cut_off")]


def test_a_cut_end_is_found_when_the_last_line_is_kept(lines: Lines):
    del lines[-3:-1]
    assert problems(lines) == [(10, "removed")]


def test_other_lines_are_named(lines: Lines):
    lines.insert(3, b"hello\n")
    assert problems(lines) == [(2, "not_an_event")]
    assert problems([*lines[:3], *lines[4:], b"more\n"]) == [(10, "not_an_event")]


def test_what_is_no_export_is_refused(lines: Lines):
    for wrong in ([], lines[1:], [b"hello\n"], [b"\xff\n"], [lines[0].replace(b":1,", b":2,", 1)]):
        with pytest.raises(audit.NotAnExport):
            verify(wrong)


def test_a_selection_is_verified_by_each_events_hash_and_all_together():
    lines = lines_of(
        (event(id, seq) for seq in range(1, 6) for id in ("a", "b")), keep=lambda number: number % 2 == 1
    )
    assert verify(lines).ok and verify(lines).events == 5
    changed = [*lines]
    changed[2] = changed[2].replace(b'"n":2', b'"n":3')
    assert problems(changed) == [(3, "edited")]
    assert problems([*lines[:2], *lines[3:]]) == [(0, "edited")]
    assert problems([*lines[:2], lines[3], lines[2], *lines[4:]])[0][1] == "reordered"
    assert problems(lines[:-1]) == [(9, "cut_off")]


def test_a_strangers_message_breaks_nothing():
    file = io.BytesIO()
    writer = audit.Writer(file, audit.Head(root="penstock", first_seq=1, last_seq=2))
    writer.add(1, audit.seal(audit.canonical(event("a", 1)), audit.GENESIS)[0])
    writer.add(2, b"hello")
    writer.finish()
    report = verify(file.getvalue().splitlines(keepends=True))
    assert report.ok and (report.strangers, report.first_stranger) == (1, 2)


def test_after_a_rewind_events_may_be_numbered_anew():
    one, other = (f"{n}-00000000-0000-7000-8000-000000000000" for n in range(2))

    def rewound(partition: int) -> audit.Facts:
        id = f"{partition}-00000001-0000-7000-8000-000000000000"
        return audit.Facts(
            f"{id}:1", 1, 1, "default", "partition", id, "state_rewound", 5, None, "9-0", "5-0", None,
            {"partition": partition},
        )  # fmt: skip

    past = [event(one, 1), event(one, 2), event(other, 1), event(other, 2)]
    report = verify(lines_of([*past, rewound(0), event(one, 2), event(one, 3), event(other, 3)]))
    assert report.ok and report.rewinds == 1 and "rewound" in report.sentence()
    assert problems(lines_of([*past, rewound(1), event(one, 2)])) == [(6, "repeated")]
    assert problems(lines_of([*past, rewound(0), event(one, 2), event(one, 2)])) == [(7, "repeated")]
    assert problems(lines_of([*past, rewound(0), event(one, 4)])) == [(6, "missing")]


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch):
    """Neither long files nor many entities fill the memory; forgotten ones bring no false alarm."""
    monkeypatch.setattr(audit.Verifier, "ENTITIES", 100)
    lines = lines_of(
        event(f"{id:05}", seq)
        for round in range(2)
        for id in range(1000)
        for seq in (2 * round + 1, 2 * round + 2)
    )
    whole = b"".join(lines)
    tracemalloc.start()
    try:
        report = audit.verify_file(io.BytesIO(whole))[1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.ok and report.events == 4_000, report.sentence()
    assert peak < 300_000
    assert exported.LINE_MOST > 8 * 2**20
