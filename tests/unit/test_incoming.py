"""What nats-server sends is sorted: messages that are taken at once; all else, byte for byte, for nats-py."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg

from penstock.bus.connection import Connection
from penstock.bus.incoming import Incoming, Takers, parse_headers

OURS, OTHERS = (b"7", b"12"), (b"1", b"70")
CONTROL = [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Slow Consumer'\r\n", b'INFO {"server_id":"MSG"}\r\n']


class Sent(NamedTuple):
    sid: bytes
    subject: str
    reply: str
    headers: bytes
    payload: bytes

    @property
    def wire(self) -> bytes:
        words = [self.subject.encode(), self.sid, *([self.reply.encode()] if self.reply else [])]
        if self.headers:
            total = len(self.headers) + len(self.payload)
            head = b" ".join([b"HMSG", *words, b"%d" % len(self.headers), b"%d" % total])
        else:
            head = b" ".join([b"MSG", *words, b"%d" % len(self.payload)])
        return head + b"\r\n" + self.headers + self.payload + b"\r\n"


SENT = st.builds(
    Sent,
    st.sampled_from(OURS + OTHERS),
    st.sampled_from(["a", "penstock.v1.execution.create", "PING"]),
    st.sampled_from(["", "_INBOX.x.1"]),
    st.sampled_from([b"", b"NATS/1.0\r\nfoo: bar\r\n\r\n", b"NATS/1.0 503\r\n\r\n"]),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"MSG a 7 2\r\nhi\r\n", b"\r\n\r\n", b"x" * 5000])),
)


class Streams:
    """Collects what nats-py would get."""

    def __init__(self) -> None:
        self.passed = b""
        self.paused = False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def data_received(self, data: bytes) -> None:
        self.passed += data


class House:
    def __init__(self) -> None:
        self.taken: list[tuple[bytes, Msg]] = []
        self.streams: Any = Streams()
        self.client: Any = SimpleNamespace(stats={"in_msgs": 0, "in_bytes": 0})
        self.takers = Takers()
        for sid in OURS:
            self.takers.by_sid[sid] = lambda msg, sid=sid: self.taken.append((sid, msg))
        self.incoming = Incoming(self.client, self.takers, self.streams)


@given(st.lists(st.one_of(SENT, st.sampled_from(CONTROL)), max_size=12), st.data())
def test_messages_are_taken_in_order_however_they_are_cut(
    sent: list[Sent | bytes], data: st.DataObject
) -> None:
    house = House()
    wire = b"".join(each if isinstance(each, bytes) else each.wire for each in sent)
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=8).map(sorted))
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        house.incoming.data_received(wire[start:end])
    ours = [each for each in sent if isinstance(each, Sent) and each.sid in OURS]
    assert [(sid, msg.subject, msg.reply, msg.data, msg.headers) for sid, msg in house.taken] == [
        (
            each.sid,
            each.subject,
            each.reply,
            each.payload,
            parse_headers(each.headers) if each.headers else None,
        )
        for each in ours
    ]
    others = [each for each in sent if each not in ours]
    assert house.streams.passed == b"".join(e if isinstance(e, bytes) else e.wire for e in others)
    assert house.client.stats["in_msgs"] == len(ours)


@pytest.mark.parametrize(
    "bad",
    [b"MSG a 7 many\r\n", b"MSG 7 1\r\n", b"MSG a 7 -20\r\n", b"HMSG a 7 b c 9\r\n", b"HMSG a 7 9 4\r\n"],
)
def test_what_is_not_understood_is_left_to_nats_py(bad: bytes) -> None:
    house = House()
    first = Sent(b"7", "a", "", b"", b"1").wire
    house.incoming.data_received(first + bad[:5])
    house.incoming.data_received(bad[5:] + first)
    house.incoming.data_received(first)
    assert len(house.taken) == 1
    assert house.streams.passed == bad + first + first


def test_one_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    house = House()

    def fails(_msg: Msg) -> None:
        raise RuntimeError("on purpose")

    house.takers.by_sid[b"7"] = fails
    house.incoming.data_received(
        Sent(b"7", "bad", "", b"", b"").wire + Sent(b"12", "good", "", b"", b"").wire
    )
    assert [msg.subject for _, msg in house.taken] == ["good"]
    assert "bad" in caplog.text


def test_a_subject_that_is_no_text_is_taken_too() -> None:
    house = House()
    good = Sent(b"12", "good", "", b"", b"").wire
    house.incoming.data_received(
        b"MSG a.\xff\xfe 12 1\r\nx\r\n" + good + b"MSG a 12 b.\xff 1\r\nx\r\n" + good
    )
    assert [(msg.subject, msg.reply) for _, msg in house.taken] == [
        ("a.\ufffd\ufffd", ""),
        ("good", ""),
        ("a", "b.\ufffd"),
        ("good", ""),
    ]


def test_what_is_left_for_the_end_of_a_read_runs_once_after_all_its_messages() -> None:
    house = House()
    seen: list[int] = []

    def take(_msg: Msg) -> None:
        house.takers.after_read(lambda: seen.append(len(house.taken)))

    house.takers.by_sid[b"1"] = take
    asked, after = Sent(b"1", "a", "", b"", b"").wire, Sent(b"7", "b", "", b"", b"").wire
    house.incoming.data_received(asked + after + after)
    house.incoming.data_received(after)
    assert seen == [2]


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"NATS/1.0\r\n\r\n", None),
        (b"NATS/1.0\r\nNats-Msg-Id: 1:2\r\nempty:\r\n\r\n", {"Nats-Msg-Id": "1:2", "empty": ""}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (b"NATS/1.0 404 No Messages\r\n\r\n", {"Status": "404", "Description": "No Messages"}),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nA: b\r\n\r\n",
            {"Status": "100", "Description": "Idle Heartbeat", "A": "b"},
        ),
        ("NATS/1.0\r\nname: Zoë\r\nZoë: name\r\n\r\n".encode(), {"name": "Zoë"}),
    ],
)
async def test_headers_are_read_as_nats_py_reads_them(block: bytes, headers: dict[str, str] | None) -> None:
    assert parse_headers(block) == headers
    assert await Connection()._process_headers(block) == headers  # pyright: ignore[reportPrivateUsage]


def test_a_full_socket_is_told_to_both() -> None:
    house = House()
    house.incoming.pause_writing()
    assert house.incoming.paused and house.streams.paused
    house.incoming.resume_writing()
    assert not house.incoming.paused and not house.streams.paused
