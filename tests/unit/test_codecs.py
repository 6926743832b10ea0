"""Payload codecs on messages, without a connection: what is coded, what stays plain, and what each error is."""

import base64
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from penstock.codecs import AesGcm, CodecError, PayloadCodec, Undecodable, UnknownCodec, UnknownKey
from penstock.codecs._coding import Coding, is_coded
from penstock.errors import InvalidError
from penstock.machine.flow_states import merge as merge_state
from penstock.machine.idempotency import digest
from penstock.machine.specs import merge as merge_input
from penstock.messages.common import NULL, Page, Record, readable
from penstock.messages.executions import ExecutionCreate, ExecutionSpec
from penstock.messages.flows import Flow, FlowCreate, FlowUpdateState, Member
from penstock.messages.leases import LeaseComplete, TaskMessage

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


class Reverse(PayloadCodec):
    """A codec that anybody could write: it turns longer payloads around."""

    name = "reverse"

    async def encode(self, payload: bytes) -> dict[str, str] | None:
        return {"data": base64.b64encode(payload[::-1]).decode()} if len(payload) > 10 else None

    async def decode(self, fields: Any) -> bytes:
        return base64.b64decode(fields["data"])[::-1]


def aes(key_id: str = "k1", **keys: bytes) -> AesGcm:
    return AesGcm(key_id, keys or {"k1": KEY})


def raw(value: Any) -> Raw:
    return Raw(msgspec.json.encode(value))


def plain(value: Raw) -> Any:
    return msgspec.json.decode(value)


async def test_an_envelope_shows_the_key_and_nothing_of_the_payload() -> None:
    coding = Coding([aes()])
    coded = await coding.encode_payload(raw({"card": "4111"}))
    envelope = plain(coded)
    assert envelope.keys() == {"penstock.codec"} and is_coded(coded)
    assert envelope["penstock.codec"]["codec"] == "aes-gcm" and envelope["penstock.codec"]["key"] == "k1"
    assert b"4111" not in base64.b64decode(envelope["penstock.codec"]["data"])
    assert coded != await coding.encode_payload(raw({"card": "4111"}))  # a new nonce each time
    assert plain(await coding.decode_payload(coded)) == {"card": "4111"}


@pytest.mark.parametrize(
    "value", ["a", 2**60, [1, {"penstock.codec": "mine"}], {"penstock.codec": {"codec": "x"}}, {"a/b": "é"}]
)
async def test_any_payload_comes_back_byte_for_byte(value: Any) -> None:
    coding = Coding([aes(), Reverse()])
    payload = Raw(b" " + msgspec.json.encode(value) + b"\n")
    assert await coding.decode_payload(await coding.encode_payload(payload)) == payload


async def test_null_and_what_nobody_coded_stay_as_they_are() -> None:
    coding = Coding([aes()])
    assert await coding.encode_payload(NULL) is NULL
    for value in (
        raw({"n": 1}),
        raw(["penstock.codec"]),
        raw("penstock.codec"),
        Raw(b'{"a": {"penstock.codec": 1, "b": 2}}'),
    ):
        assert plain(await coding.decode_payload(value)) == plain(value)


async def test_keys_are_rotated() -> None:
    old = await Coding([aes()]).encode_payload(raw("secret"))
    both = Coding([AesGcm("k2", {"k2": OTHER, "k1": KEY})])
    assert plain(await both.decode_payload(old)) == "secret"
    new = await both.encode_payload(raw("secret"))
    assert plain(new)["penstock.codec"]["key"] == "k2"
    with pytest.raises(UnknownKey, match="key 'k2'; this side has k1"):
        await Coding([aes()]).decode_payload(new)


async def test_what_cannot_be_decrypted_is_told_apart() -> None:
    coding = Coding([aes()])
    coded = await coding.encode_payload(raw("secret"))
    envelope = plain(coded)["penstock.codec"]
    with pytest.raises(Undecodable, match="key 'k1'"):
        await Coding([aes(k1=OTHER)]).decode_payload(coded)
    with pytest.raises(Undecodable):
        await Coding([AesGcm("k1", {"k1": KEY}, context=b"other")]).decode_payload(coded)
    changed = bytearray(base64.b64decode(envelope["data"]))
    changed[-1] ^= 1
    for data in (base64.b64encode(changed).decode(), "no base64", "", "AAAA"):
        with pytest.raises(Undecodable):
            await coding.decode_payload(raw({"penstock.codec": envelope | {"data": data}}))
    for broken in (1, {"key": "k1"}, {"codec": 3}):
        with pytest.raises(Undecodable, match="not what a codec makes"):
            await coding.decode_payload(raw({"penstock.codec": broken}))


async def test_codecs_in_a_row_each_get_what_the_one_before_made() -> None:
    coded = await Coding([aes(), Reverse()]).encode_payload(raw("secret"))
    assert plain(coded)["penstock.codec"]["codec"] == "reverse"
    # The envelopes say what is inside them, so the order does not matter when reading.
    assert plain(await Coding([Reverse(), aes()]).decode_payload(coded)) == "secret"
    with pytest.raises(UnknownCodec, match="codec 'aes-gcm'; this side has reverse"):
        await Coding([Reverse()]).decode_payload(coded)
    with pytest.raises(ValueError, match="once"):
        Coding([aes(), aes()])


async def test_results_of_edges_are_merged_into_a_coded_input() -> None:
    coding = Coding([aes()])
    result = str(await coding.encode_payload(raw([1, 2])), "utf-8")
    for given, merged in (({"data": "own"}, {"data": "own", "left": [1, 2]}), (None, {"left": [1, 2]})):
        coded = await coding.encode_payload(raw(given))
        text = merge_input(None if given is None else str(coded, "utf-8"), [("left", result)])
        assert plain(await coding.decode_payload(Raw(text.encode()))) == merged
    no_object = str(await coding.encode_payload(raw([0])), "utf-8")
    with pytest.raises(CodecError, match=r"no object.*left"):
        await coding.decode_payload(Raw(merge_input(no_object, [("left", result)]).encode()))


async def test_states_are_coded_value_by_value_so_that_patches_merge() -> None:
    coding = Coding([aes()])
    create = FlowCreate(controller_id="c", goal="g", owner="o", state=raw({"a": "secret", "b": 1}))
    state = (await coding.encode(create)).state
    assert list(plain(state)) == ["a", "b"] and b"secret" not in bytes(state)
    patch = FlowUpdateState(flow_id="0-x", state_patch=raw({"b": 2, "c": None}))
    coded_patch = (await coding.encode(patch)).state_patch
    assert isinstance(coded_patch, Raw)
    merged = merge_state(str(state, "utf-8"), str(coded_patch, "utf-8"))
    with_event = merge_state(merged, '{"failure":{"reason":"plain"}}')
    flow = msgspec.json.decode(
        b'{"flow_id":"0-x","kind":"managed","namespace":"n","controller_id":"c","goal":"g","owner":"o",'
        b'"status":"running","revision":1,"graph_revision":0,"created_at":0,"updated_at":0,"state":'
        + with_event.encode()
        + b"}",
        type=Flow,
    )
    await coding.decode(flow, Flow)
    assert flow.state == {"a": "secret", "b": 2, "c": None, "failure": {"reason": "plain"}}
    with pytest.raises(InvalidError, match="are objects"):
        await coding.encode(FlowUpdateState(flow_id="0-x", state_patch=raw([1])))


async def test_every_payload_of_a_request_is_coded_and_the_request_itself_is_not_touched() -> None:
    coding = Coding([aes()])
    members = [Member(key=key, kind="k", raw_input=raw({"secret": key})) for key in "ab"]
    flow = FlowCreate(controller_id="c", goal="g", owner="o", state=raw({"s": "secret"}), members=members)
    done = LeaseComplete(
        execution_id="0-x", attempt_index=1, lease_id="l", lease_epoch=1, result=raw("secret"),
        children=[ExecutionSpec(kind="k", raw_input=raw("secret"))],
    )  # fmt: skip
    for request in (flow, done):
        before = msgspec.json.encode(request)
        assert b"secret" not in msgspec.json.encode(await coding.encode(request))
        assert msgspec.json.encode(request) == before


async def test_a_record_that_cannot_be_decoded_leaves_its_neighbours_readable() -> None:
    coding = Coding([aes()])
    foreign = await Coding([aes("k9", k9=OTHER)]).encode_payload(raw("secret"))
    own = await coding.encode_payload(raw("mine"))
    rows = [
        {"execution_id": "0-x", "namespace": "n", "kind": "k", "lane": "l", "priority": 0, "state": "ready"}
    ] * 2
    page = msgspec.convert({"items": rows}, Page[Record])
    page.items[0].raw_input, page.items[1].raw_input = foreign, own
    await coding.decode(page, Page[Record])
    assert page.items[1].input == "mine" and page.items[0].raw_input == foreign
    with pytest.raises(UnknownKey, match="k9"):
        _ = page.items[0].input
    with pytest.raises(UnknownKey, match="k9"):
        readable(page.items[0], "raw_input")


async def test_repeats_under_an_idempotency_key_are_the_same_request() -> None:
    coding = Coding([aes()])

    async def keyed(value: Any, **fields: Any) -> str | None:
        # Inside a service, a payload is JSON text.
        request = await coding.encode(
            ExecutionCreate(kind="k", raw_input=raw(value), idempotency_key="1", **fields)
        )
        return digest(msgspec.structs.replace(request, raw_input=str(request.raw_input, "utf-8")))

    assert await keyed("a") == await keyed("a") == await keyed("b")
    assert await keyed("a") != await keyed("a", lane="other")
    uncoded = [ExecutionCreate(kind="k", raw_input=text, idempotency_key="1") for text in ('"a"', '"b"')]  # type: ignore[arg-type]
    assert digest(uncoded[0]) != digest(uncoded[1])


def test_bad_keys_are_refused_and_never_shown() -> None:
    with pytest.raises(ValueError, match="no key 'k2'"):
        aes("k2", k1=KEY)
    with pytest.raises(ValueError, match="31 bytes"):
        aes(k1=KEY[1:])
    with pytest.raises(ValueError, match="a key id has"):
        AesGcm("{", {"{": KEY})
    assert repr(AesGcm("b", {"b": KEY, "a": OTHER})) == "AesGcm('b', keys=['a', 'b'])"
    assert len(AesGcm.new_key()) == 32


async def test_a_codec_that_breaks_the_rules_is_named() -> None:
    class Braces(Reverse):
        name = "braces"

        async def encode(self, payload: bytes) -> dict[str, str]:
            return {"data": "{}"}

    class Named(Reverse):
        name = "named"

        async def encode(self, payload: bytes) -> dict[str, str]:
            return {"of": "x"}

    with pytest.raises(CodecError, match="'braces' made a field 'data' with braces"):
        await Coding([Braces()]).encode_payload(raw("x"))
    with pytest.raises(CodecError, match="'named' made a field 'of'"):
        await Coding([Named()]).encode_payload(raw("x"))
    with pytest.raises(CodecError, match=r"^the codec 'reverse' failed \(KeyError\)$"):
        await Coding([Reverse()]).decode_payload(raw({"penstock.codec": {"codec": "reverse"}}))


def test_the_packages_of_the_extras_are_asked_for_only_when_they_are_needed() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None; import penstock.client, penstock.worker, penstock.codecs\n"
        "assert 'opentelemetry' not in sys.modules\n"
        "try: penstock.codecs.AesGcm('k', {'k': bytes(32)})\n"
        "except ImportError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout == "AesGcm needs the package cryptography: pip install 'penstock[encryption]'\n", (
        said.stderr
    )


def test_a_task_for_a_worker_without_a_codec_is_recognized() -> None:
    task = TaskMessage(
        execution_id="0-x", kind="k", lane="l", attempt_index=1, attempt_id="a", lease_id="l", lease_epoch=1,
        lease_expires_at=0, raw_input=raw({"penstock.codec": {"codec": "aes-gcm"}}),
    )  # fmt: skip
    assert is_coded(task.raw_input) and not is_coded(NULL) and not is_coded(raw({"penstock": 1}))
