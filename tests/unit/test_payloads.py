"""Payloads of the records that a client gets: plain values on access, the bytes kept as they came."""

import copy
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from penstock.machine.replies import inside
from penstock.messages.common import SHOWN_CHARS, Record
from penstock.messages.flows import Flow, Step
from penstock.messages.frames import Frame
from penstock.messages.leases import TaskMessage
from penstock.messages.schedules import Schedule
from penstock.messages.signals import Signal

FIELDS = {
    "execution_id": "0-x", "namespace": "default", "kind": "k", "lane": "default", "priority": 0, "state": "completed",
}  # fmt: skip
EXACT: list[tuple[str, Any]] = [
    ("1.0", 1.0),
    ("1.10", 1.1),
    ("9223372036854775808", 2**63),
    ("123456789012345678901234567890", 123456789012345678901234567890),
    ('"é\\u00e9"', "éé"),
    ('{ "b":1, "a":2 }', {"b": 1, "a": 2}),
    ("null", None),
    ("false", False),
]


def record(text: str | None = None) -> Record:
    """Return a record as a client decodes it; `text` is the JSON of its input, if it has one."""
    payload = "" if text is None else f',"input":{text}'
    body = msgspec.json.encode(FIELDS).decode()
    return msgspec.json.decode(f"{body[:-1]}{payload}}}", type=Record)


@pytest.mark.parametrize(("text", "value"), EXACT)
def test_a_value_is_plain_and_its_bytes_stay(text: str, value: Any) -> None:
    found = record(text)
    assert found.input == value and type(found.input) is type(value)
    assert bytes(found.raw_input) == text.encode()
    assert f'"input":{text},"result":null'.encode() in msgspec.json.encode(found)


def test_a_missing_payload_is_none() -> None:
    assert (record().input, record().result) == (None, None)
    assert bytes(record().raw_input) == b"null"


def test_a_payload_is_decoded_once() -> None:
    found = record('{"a":[1]}')
    assert vars(found) == {}
    assert found.input is found.input


def test_changing_a_value_does_not_change_the_record() -> None:
    found = record('{"a":[1]}')
    found.input["a"].append(2)
    assert found.input == {"a": [1, 2]}
    assert bytes(found.raw_input) == b'{"a":[1]}' and b'"input":{"a":[1]}' in msgspec.json.encode(found)
    assert found == record('{"a":[1]}') and copy.copy(found).input == {"a": [1]}
    with pytest.raises(AttributeError, match="input"):
        found.input = 1  # type: ignore[misc]


def test_a_copy_with_other_bytes_has_another_value() -> None:
    found = record("1")
    assert found.input == 1
    assert msgspec.structs.replace(found, raw_input=Raw(b"2")).input == 2


@pytest.mark.parametrize(
    ("type_", "body", "name"),
    [
        (Record, FIELDS, "input"),
        (Record, FIELDS, "result"),
        (Flow, {"flow_id": "f", "kind": "managed", "namespace": "n", "controller_id": "c", "goal": "g", "owner": "o",
                "status": "running", "revision": 1, "graph_revision": 1, "created_at": 1, "updated_at": 1}, "state"),
        (Step, {"flow_id": "f", "run_id": "r", "task": "t", "status": "s", "runtime": "r", "observed_at": 1,
                "created_at": 1, "updated_at": 1}, "result"),
        (Frame, {"execution_id": "x", "attempt_index": 1, "index": 1, "frame_type": "t", "at": 1}, "payload"),
        (Frame, {"execution_id": "x", "attempt_index": 1, "index": 1, "frame_type": "t", "at": 1}, "metadata"),
        (Signal, {"signal_id": "s", "name": "n", "at": 1}, "payload"),
        (TaskMessage, {"execution_id": "x", "kind": "k", "lane": "l", "attempt_index": 1, "attempt_id": "a",
                       "lease_id": "l", "lease_epoch": 1, "lease_expires_at": 1}, "input"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", None),
)  # fmt: skip
def test_every_record_has_plain_values(type_: Any, body: dict[str, Any], name: str) -> None:
    found = msgspec.json.decode(msgspec.json.encode({**body, name: Raw(b'{"a": 1.0}')}), type=type_)
    assert getattr(found, name) == {"a": 1.0}
    assert bytes(getattr(found, f"raw_{name}")) == b'{"a": 1.0}'
    assert f'"{name}":{{"a": 1.0}}'.encode() in msgspec.json.encode(found)
    packed = msgspec.msgpack.encode({**body, name: '{"a": 1.0}'})
    inner = msgspec.msgpack.decode(packed, type=inside(type_))  # as a service has it: the payload is text
    assert getattr(inner, f"raw_{name}") == '{"a": 1.0}'


def test_a_schedule_shows_the_input_of_its_executions() -> None:
    fields = {
        "schedule_id": "s", "namespace": "n", "status": "active", "misfire": "skip", "created_at": 1, "updated_at": 1,
    }  # fmt: skip
    body = msgspec.json.encode({**fields, "execution": {"kind": "k", "input": Raw(b"[1.0]")}})
    found = msgspec.json.decode(body, type=Schedule)
    assert found.execution.input == [1.0]
    assert b'"execution":{"kind":"k","input":[1.0]}' in msgspec.json.encode(found)


def test_a_repr_shows_payloads_as_json() -> None:
    shown = repr(record('{"to": "é", "n": 1.0}'))
    assert shown.startswith("Record(execution_id='0-x', namespace='default', kind='k'")
    assert ', input={"to": "é", "n": 1.0}, result=null, failure=None' in shown
    long = repr(record('"' + "x" * 10_000 + '"'))
    assert "x…, result=null" in long and long.count("x") < SHOWN_CHARS + 100
