"""The codec: validation of requests, handling of payloads, format of replies."""

import json

import msgspec
import pytest
from msgspec import Raw

from penstock import errors, verbs
from penstock.bus import codec
from penstock.bus.payloads import MAX_DEPTH
from penstock.errors import PenstockError
from penstock.messages.common import Page, Record, StateReply
from penstock.messages.leases import TaskMessage, Tasks
from penstock.messages.signals import Signal, Suspended

CREATE = verbs.EXECUTION_CREATE
GET = verbs.EXECUTION_GET
ID = "3-0192e4a0-0000-7000-8000-000000000000"


def one(body: bytes, verb: verbs.Verb = CREATE, limit: int = 1 << 20):
    items, single = codec.decode(verb, body, limit)
    assert single
    assert len(items) == 1
    return items[0]


def refused(body: bytes, verb: verbs.Verb = CREATE, code: str = "invalid_request", limit: int = 1 << 20):
    error = one(body, verb, limit)
    assert isinstance(error, PenstockError), error
    assert error.code == code
    return error


# --- requests


def test_a_single_request():
    request = one(b' {"kind":"mail.send","priority":3}')
    assert request.kind == "mail.send"
    assert request.priority == 3


def test_an_empty_body_is_an_empty_object():
    assert one(b"", verbs.LANE_LIST).limit == 100
    assert one(b"  \n", verbs.LANE_LIST).limit == 100
    assert refused(b"").detail == {"field": "kind"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"kind":"a b"}', "Expected names of A-Z a-z 0-9 _ - joined by dots - at `$.kind`"),
        (
            b'{"kind":"a","concurrency_key":"a.b"}',
            "Expected a name of A-Z a-z 0-9 _ - with up to 128 characters - at `$.concurrency_key`",
        ),
        (b'{"kind":"a","parent_id":"7"}', "Expected an id such as"),
        (b'{"kind":"a","traceparent":"7"}', "Expected a traceparent"),
    ],
)
def test_a_refusal_says_in_words_what_is_expected(body: bytes, words: str):
    assert refused(body).message.startswith(words)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"kind":"a","foo":1}', "foo"),
        (b'{"kind":"a","priority":"high"}', "priority"),
        (b'{"kind":"a","priority":128}', "priority"),
        (b'{"kind":"a b"}', "kind"),
        (b'{"kind":"a\\n"}', "kind"),
        (b'{"kind":"a","backoff":{"delay_ms":-1}}', "backoff.delay_ms"),
        (b'{"kind":"a","backoff":{"foo":1}}', "backoff.foo"),
        (b'{"kind":"a","tags":{"a b":"x"}}', "tags"),
        (b'{"kind":"a","capabilities":["x",1]}', "capabilities[1]"),
        (b"{}", "kind"),
    ],
)
def test_a_wrong_field_is_named(body: bytes, field: str):
    error = refused(body)
    assert error.detail == {"field": field}
    assert field.rsplit(".")[-1].split("[")[0] in error.message


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        b"{",
        b'{"kind":"a"} x',
        b"7",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"\xff":1}',
        b'{"kind":"a","input":NaN}',
        b'{"kind":"a","input":[1,]}',
        b'{"kind":"a","input":01}',
        b'{"kind":"a","input":"\x01"}',
        b'{"kind":"a","input":"\\ud800 alone"}',
        b'{"kind":"a","input":"\xff"}',
        b'{"kind":"a","input":{"\xed\xa0\x80":1}}',
        b'{"kind":"a","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
        b"[1,",
    ],
)
def test_what_is_no_json_is_refused(body: bytes):
    refused(body)


def test_nesting_that_others_could_not_decode_is_refused():
    depth = MAX_DEPTH // 2
    assert one(b'{"kind":"a","input":' + b"[" * depth + b"]" * depth + b"}").raw_input
    depth = 600
    error = refused(b'{"kind":"a","input":' + b"[" * depth + b"]" * depth + b"}")
    assert "nested too deeply" in error.message
    wide = b"[" + b",".join([b'{"a":[]}'] * 5000) + b"]"
    assert one(b'{"kind":"a","input":' + wide + b"}").raw_input == wide.decode()


@pytest.mark.parametrize(
    "text",
    [
        "9007199254740993",
        "[]",
        "{}",
        '{"b":1,"a":2}',
        '"é\\u00e9"',
        '{"a":1,"a":2}',
        "1.10",
        "false",
        '""',
        "0",
    ],
)
def test_payloads_pass_byte_for_byte(text: str):
    request = one(f'{{"kind":"a","input": {text} }}'.encode())
    assert request.raw_input == text
    body, _ = codec.encode(GET, [{"execution_id": ID, "input": request.raw_input}], True)
    assert body == f'{{"execution_id":"{ID}","input":{text}}}'.encode()


def test_a_null_payload_is_none():
    assert one(b'{"kind":"a"}').raw_input is None
    assert one(b'{"kind":"a","input": null}').raw_input is None


def test_a_request_with_payloads_fits_msgpack():
    request = one(b'{"kind":"a","input":{"x":1}}')
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request)) == {"kind": "a", "input": '{"x":1}'}


def test_payloads_of_members():
    body = (
        b'{"controller_id":"c","goal":"g","owner":"o","state":{"n":1},'
        b'"members":[{"key":"a","kind":"k","input":[1]},{"key":"b","kind":"k"}]}'
    )
    flow = one(body, verbs.FLOW_CREATE)
    assert flow.state == '{"n":1}'
    assert [member.raw_input for member in flow.members] == ["[1]", None]
    small = refused(body.replace(b"[1]", b"[123456789]"), verbs.FLOW_CREATE, "payload_too_large", 8)
    assert small.detail == {"field": "members[0].input", "limit": 8, "size": 11}
    assert one(b'{"controller_id":"c","goal":"g","owner":"o"}', verbs.FLOW_CREATE).state == "{}"


def test_a_large_payload_names_limit_and_size():
    error = refused(b'{"kind":"a","input":"' + b"x" * 100 + b'"}', code="payload_too_large", limit=99)
    assert error.detail == {"field": "input", "limit": 99, "size": 102}


# --- batches


def test_a_batch_keeps_its_order_and_its_bad_items():
    items, single = codec.decode(
        CREATE, b'[{"kind":"a","input":1},{"kind":1},{"kind":"c","input":"\xff"},{"kind":"d"},7]'
    )
    assert not single
    kinds = [item.code if isinstance(item, PenstockError) else item.kind for item in items]
    assert kinds == ["a", "invalid_request", "invalid_request", "d", "invalid_request"]
    assert items[1].detail == {"field": "kind"}
    assert items[0].raw_input == "1"


def test_a_good_batch():
    items, single = codec.decode(CREATE, b' [{"kind":"a","input":{"x":[]}},{"kind":"b"}]')
    assert not single
    assert [(item.kind, item.raw_input) for item in items] == [("a", '{"x":[]}'), ("b", None)]


def test_an_empty_batch():
    assert codec.decode(CREATE, b"[]") == ([], False)
    assert codec.encode(CREATE, [], False) == (b"[]", None)


@pytest.mark.parametrize("item", [b'{"kind":"a"}', b"1"])
def test_a_batch_has_a_limit(item: bytes):
    assert len(codec.decode(CREATE, b"[" + b",".join([item] * verbs.MAX_BATCH) + b"]")[0]) == verbs.MAX_BATCH
    error = refused(b"[" + b",".join([item] * (verbs.MAX_BATCH + 1)) + b"]")
    assert str(verbs.MAX_BATCH) in error.message


def test_an_array_for_a_verb_without_batches():
    assert "array" in refused(b"[]", verbs.WORK_NEXT).message


# --- replies


def test_a_single_error_has_headers_and_body():
    error = errors.make("stale_lease", "gone\nfor good", detail={"a": 1}, retry_after_ms=5)
    body, headers = codec.encode(GET, [error], True)
    assert headers == {"Nats-Service-Error-Code": "409", "Nats-Service-Error": "gone for good"}
    assert json.loads(body)["error"] == {
        "code": "stale_lease",
        "class": "conflict",
        "message": "gone\nfor good",
        "retryable": False,
        "retry_after_ms": 5,
        "detail": {"a": 1},
    }


def test_a_batch_reply():
    body, headers = codec.encode(GET, [{"state": "ready"}, errors.make("execution_not_found")], False)
    assert headers is None
    ok, error = json.loads(body)
    assert ok == {"ok": {"state": "ready"}}
    assert error["error"]["code"] == "execution_not_found"


def task(text: str) -> TaskMessage:
    return TaskMessage(
        execution_id=ID, kind="a", lane="l", raw_input=text, attempt_index=0, attempt_id="a", lease_id="l",
        lease_epoch=1, lease_expires_at=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "result", "payload"),
    [
        (verbs.WORK_NEXT, {"tasks": [{"input": "[1]"}]}, b'{"tasks":[{"input":[1]}]}'),
        (
            verbs.EXECUTION_LIST,
            {"items": [{"input": "{}", "result": "1"}], "cursor": None},
            b'"input":{},"result":1',
        ),
        (verbs.SIGNAL_RESUMED_BY, {"items": [{"payload": '"a"'}]}, b'[{"payload":"a"}]'),
        (verbs.LEASE_SUSPEND, {"outcome": "x", "items": [{"payload": "2"}]}, b'[{"payload":2}]'),
        (verbs.WORK_NEXT, Tasks(tasks=[task("[1]")]), b'"input":[1]'),
        (verbs.EXECUTION_LIST, Page[Record](items=[{"input": "[2]"}]), b'"input":[2]'),
        (
            verbs.LEASE_SUSPEND,
            Suspended(outcome="x", items=[Signal(signal_id="s", name="n", raw_payload="[3]", at=1)]),
            b'"payload":[3]',
        ),
        (
            verbs.FLOW_GET,
            {"state": '{"k":1}', "wait": {"state": "text"}},
            b'{"state":{"k":1},"wait":{"state":"text"}}',
        ),
        (GET, {"input": Raw(b"[4]"), "tags": {"input": "text"}}, b'{"input":[4],"tags":{"input":"text"}}'),
        (verbs.LEASE_START, StateReply(state="running"), b'{"state":"running"}'),
    ],
)
def test_payloads_of_replies(verb, result, payload: bytes):
    body, _ = codec.encode(verb, [result], True)
    assert payload in body
    again, _ = codec.encode(verb, [result], True)  # the same object may answer two items
    assert again == body


def test_a_reply_that_nats_cannot_carry():
    record = {"input": '"' + "x" * 10_000 + '"'}
    body, headers = codec.encode(GET, [record], True, 8192)
    assert json.loads(body)["error"]["code"] == "payload_too_large"
    assert headers["Nats-Service-Error-Code"] == "413"
    small = {"input": "1"}
    body, _ = codec.encode(GET, [small, record, small], False, 8192)
    first, second, third = json.loads(body)
    assert first == third == {"ok": {"input": 1}}
    assert second["error"]["detail"]["size"] > 10_000
    assert len(body) < 8192
    body, headers = codec.encode(GET, [record] * 100, False, 8192)
    assert len(body) < 8192
    assert json.loads(body)["error"]["code"] == "payload_too_large"
