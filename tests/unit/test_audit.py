"""The audit trail's format: hash chain, canonical form, verification, decoding of outbox entries."""

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import audit
from penstock_audit_relay import batch, entries
from penstock_audit_relay.position import Position

Messages = list[tuple[int, bytes]]


def facts(entity_id: str, seq: int, **about: Any) -> audit.Facts:
    fields: dict[str, Any] = {
        "event_id": f"{entity_id}:{seq}", "schema_version": 1, "seq": seq, "namespace": "default",
        "entity": "execution", "id": entity_id, "event": "leased", "at": 1_790_000_000_000 + seq,
        "actor": "w1", "from_": "ready", "to": "leased", "reason": None, "data": None,
    }  # fmt: skip
    return audit.Facts(**{**fields, **about})


def chained(*events: audit.Facts, after: bytes = audit.GENESIS) -> Messages:
    messages: Messages = []
    for number, event in enumerate(events, 1):
        body, after = audit.seal(audit.canonical(event), after)
        messages.append((number, body))
    return messages


@pytest.fixture
def messages() -> Messages:
    return chained(*(facts(name, seq) for seq in range(1, 6) for name in ("a", "b")))


def test_an_event_reads_as_the_contract_says():
    [(_, body)] = chained(facts("0-x", 1, data={"kind": "mail.send"}, reason="späť"))
    assert list(json.loads(body)) == [
        "event_id", "schema_version", "seq", "namespace", "entity", "id", "event", "at", "actor",
        "from", "to", "reason", "data", "prev_hash", "hash",
    ]  # fmt: skip
    event = audit.decode(body)
    assert (event.event_id, event.from_, event.to) == ("0-x:1", "ready", "leased")
    assert event.reason == "späť"


def test_the_hash_is_what_the_docstring_says_for_any_language(messages: Messages):
    previous = "0" * 64
    for _, body in messages:
        canonical = body[:-154] + b"}"
        assert json.loads(canonical).keys() == json.loads(body).keys() - {"prev_hash", "hash"}
        event = json.loads(body)
        assert event["prev_hash"] == previous
        assert event["hash"] == hashlib.sha256(previous.encode() + canonical).hexdigest()
        previous = event["hash"]


def test_a_whole_chain_verifies(messages: Messages):
    report = audit.verify_messages(messages)
    assert report.ok and not report.head_cut
    assert (report.events, report.entities, report.first_seq, report.last_seq) == (10, 2, 1, 10)
    assert report.last_hash == audit.decode(messages[-1][1]).hash
    assert "whole" in report.sentence()


def first_problem(messages: Messages) -> audit.Problem:
    report = audit.verify_messages(messages)
    assert not report.ok
    assert "BROKEN" in report.sentence()
    return report.problems[0]


def test_an_edited_event_is_found(messages: Messages):
    seq, body = messages[4]
    messages[4] = seq, body.replace(b'"to":"leased"', b'"to":"failed"')
    assert first_problem(messages)[:2] == (5, "edited")


def test_an_edited_event_with_its_hash_made_anew_is_found(messages: Messages):
    seq, body = messages[4]
    form, previous, _ = audit.unseal(body) or pytest.fail("not sealed")
    messages[4] = seq, audit.seal(form.replace(b'"to":"leased"', b'"to":"failed"'), previous)[0]
    assert first_problem(messages)[:2] == (6, "broken_link")


def test_a_removed_event_is_found(messages: Messages):
    del messages[4]
    assert first_problem(messages)[:2] == (6, "removed")


def test_a_removed_event_is_found_when_the_rest_closes_up(messages: Messages):
    del messages[4]
    closed = [(number, body) for number, (_, body) in enumerate(messages, 1)]
    assert first_problem(closed)[:2] == (5, "broken_link")


def test_a_removed_event_is_found_when_the_chain_is_made_anew():
    events = [facts("a", seq) for seq in (1, 2, 4)]
    assert first_problem(chained(*events))[:2] == (3, "missing")
    assert first_problem(chained(facts("a", 2)))[:2] == (1, "missing")


def test_reordered_events_are_found(messages: Messages):
    messages[3], messages[4] = (4, messages[4][1]), (5, messages[3][1])
    assert first_problem(messages)[:2] == (4, "broken_link")


def test_a_repeated_event_is_found():
    assert first_problem(chained(facts("a", 1), facts("a", 2), facts("a", 2)))[:2] == (3, "repeated")


def test_a_foreign_message_is_found(messages: Messages):
    [(_, after)] = chained(facts("c", 1), after=audit.unseal(messages[-1][1])[2])
    messages += [(11, b"hello"), (12, b'{"error":{"code":"invalid_request"}}'), (13, after)]
    report = audit.verify_messages(messages)
    assert (report.ok, report.events, report.strangers, report.first_stranger) == (True, 11, 2, 11)
    assert "the chain is whole" in report.sentence() and "2 messages" in report.sentence()


def test_an_event_that_a_stranger_has_overwritten_breaks_the_chain(messages: Messages):
    messages[4] = (5, b"hello")
    assert first_problem(messages)[:2] == (6, "broken_link")


def test_a_missing_first_event_is_found(messages: Messages):
    closed = [(number, body) for number, (_, body) in enumerate(messages[1:], 1)]
    assert first_problem(closed)[:2] == (1, "broken_link")


def test_a_stream_whose_head_has_left_verifies_from_there(messages: Messages):
    report = audit.verify_messages(messages[3:])
    assert report.ok and report.head_cut and report.first_seq == 4
    assert "starts at 4" in report.sentence()


def test_a_missing_end_is_found(messages: Messages):
    verifier = audit.Verifier()
    for message in messages[:-1]:
        verifier.feed(*message)
    assert [problem.kind for problem in verifier.finish(10).problems] == ["removed"]


def test_many_problems_are_counted_but_not_all_kept(messages: Messages):
    apart = [(seq, audit.seal(audit.canonical(facts("a", seq)), audit.GENESIS)[0]) for seq in range(1, 1002)]
    report = audit.verify_messages(apart)
    assert report.problem_count == 1000
    assert len(report.problems) == audit.Verifier.KEPT


def test_subjects_are_tokens():
    assert audit.tokens("default", "execution", "leased", "0-a_b") == "default.execution.leased.0-a_b"
    assert audit.tokens("de fault", "x.y", "", "a\r\nPUB b") == "de_fault.x_y._.a__PUB_b"


# -- outbox entries -------------------------------------------------------------------------------

text = st.text(max_size=20)
maybe = st.one_of(st.just(""), text)
data = st.one_of(
    st.just(""),
    st.dictionaries(text, st.one_of(st.integers(-(2**53), 2**53), text, st.booleans()), max_size=3),
)
events = st.tuples(
    st.tuples(text, text, text),
    st.tuples(st.integers(1, 2**53), text, st.integers(0, 2**53), maybe, maybe, maybe, maybe, data),
)


@given(st.lists(events, max_size=8))
def test_every_event_of_an_entry_is_told_as_it_is(told: list[tuple[tuple[str, ...], tuple[Any, ...]]]):
    blob = msgspec.msgpack.encode([part for event in told for part in event])
    entry = entries.read(3, "5-0", blob, 1 << 20)
    assert not entry.broken
    assert len(entry.events) == len(told)
    for ((entity, namespace, name), event), (_, _, form) in zip(told, entry.events, strict=True):
        body, _ = audit.seal(form, audit.GENESIS)
        read = audit.decode(body)
        assert (read.entity, read.namespace, read.id) == (entity, namespace, name)
        assert (read.seq, read.event, read.at) == event[:3]
        assert [read.actor, read.from_, read.to, read.reason, read.data] == [
            part or None for part in event[3:]
        ]


ids = st.text(alphabet="abAB09_-", min_size=1, max_size=8)
tricky = st.one_of(ids, st.sampled_from(["", "\0", 'a"b', "é", "a.b", "\\u0000"]))


@given(
    st.tuples(tricky, tricky),
    st.lists(tricky, min_size=1, max_size=5),
    events,
    st.sampled_from([40, 300, 1 << 20]),
)
def test_a_run_is_what_its_events_are_one_by_one(
    names: tuple[str, str], run: list[str], told: tuple[Any, tuple[Any, ...]], limit: int
):
    event = told[1]
    together = entries.read(0, "5-0", msgspec.msgpack.encode([[*names, run], event]), limit)
    apart = entries.read(
        0, "5-0", msgspec.msgpack.encode([part for id in run for part in ([*names, id], event)]), limit
    )
    if apart.broken:  # then the run as a whole is one dead letter
        assert (len(together.broken), together.events) == (1, [])
    else:
        assert together == apart


@given(st.binary(max_size=60))
def test_no_blob_raises(blob: bytes):
    entry = entries.read(0, "1-0", blob, 1 << 20)
    for _, _, form in entry.events:
        json.loads(form)


def test_a_malformed_event_spares_its_neighbours():
    head = ["execution", "default", "0-a"]
    good = [1, "created", 5, "", "", "ready", "", ""]
    for bad in ([1, "created"], "text", ["1", *good[1:]], [1, 2, *good[2:]], None):
        blob = msgspec.msgpack.encode([head, good, head, bad, head, [2, *good[1:]]])
        entry = entries.read(0, "1-0", blob, 1 << 20)
        assert [json.loads(form)["seq"] for _, _, form in entry.events] == [1, 2]
        [broken] = entry.broken
        assert msgspec.msgpack.decode(broken.payload) == [head, bad]


def test_an_event_that_fits_no_message_loses_its_data_and_says_so():
    event = [1, "created", 5, "", "", "ready", "", {"note": "x" * 5000}]
    entry = entries.read(0, "1-0", msgspec.msgpack.encode([["execution", "default", "0-a"], event]), 2000)
    [(_, _, form)] = entry.events
    assert json.loads(form)["data"]["omitted"]
    assert not entry.broken


def test_a_batch_is_one_chain_of_headed_messages():
    head = ["execution", "default", "0-a"]
    told = [[seq, "leased", 5, "", "", "ready", "", ""] for seq in (1, 2, 3)]
    first = entries.read(2, "7-0", msgspec.msgpack.encode([head, told[0], head, told[1]]), 1 << 20)
    second = entries.read(0, "9-1", msgspec.msgpack.encode([head, told[2]]), 1 << 20)
    chain = batch.Chain(Position(seq=40, cursor={1: "3-3"}), "root", "_INBOX.x")
    sealed = chain.seal([first, second])
    assert (sealed.events, sealed.last_seq, sealed.cursor) == (3, 43, {2: "7-0", 0: "9-1"})
    messages = [part for part in sealed.wire.split(b"HPUB ") if part]
    assert all(part.startswith(b"root.audit.default.execution.leased.0-a ") for part in messages)
    assert b"Nats-Expected-Last-Sequence:40\r\n" in messages[0]
    assert b"Commit" not in messages[1]
    assert b'Nats-Batch-Commit:1\r\nPenstock-Cursor:{"1":"3-3","2":"7-0","0":"9-1"}\r\n' in messages[2]
    assert f" _INBOX.x.{sealed.token} ".encode() in messages[2]
    bodies = [part.split(b"\r\n\r\n")[1].removesuffix(b"\r\n") for part in messages]
    assert audit.verify_messages(enumerate(bodies, 1)).ok


def test_events_that_the_stream_has_already_are_left_out():
    head = ["execution", "default", "0-a"]
    blob = msgspec.msgpack.encode([head, [1, "a", 5, *[""] * 5], head, [2, "b", 5, *[""] * 5]])
    entry = entries.read(0, "7-0", blob, 1 << 20)
    chain = batch.Chain(Position(seq=1, stored=frozenset({entry.events[0][2]})), "root", "_INBOX.x")
    sealed = chain.seal([entry])
    assert (sealed.events, sealed.last_seq) == (1, 2)
    assert chain.seal([entries.Entry(0, "8-0", [], [])]).events == 0
