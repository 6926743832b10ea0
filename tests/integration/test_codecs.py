"""Payload codecs in a running Penstock: rotation, what a missing key or object means, and large payloads."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from penstock import ExecutionFailed, Worker, errors
from penstock.bus.connection import connect
from penstock.codecs import AesGcm, CodecError, Codecs, ObjectMissing, Offload, PayloadCodec, UnknownKey
from running_penstock import RunningPenstock

WAIT_S = 60.0
SECRET = "4111-1111"
KEY, OLD = bytes(range(32)), bytes(range(1, 33))


def a_worker(codec: Codecs = None) -> Worker:
    worker = Worker(codec=codec)

    @worker.handler("echo")
    async def echo(input: Any) -> Any:
        return input

    return worker


async def test_a_codec_is_turned_on_and_keys_are_rotated_while_work_waits(penstock: RunningPenstock) -> None:
    kinds = [None, AesGcm("old", {"old": OLD}), AesGcm("new", {"new": KEY, "old": OLD})]
    runs = [await (await penstock.client(codec=codec)).submit("echo", {"n": SECRET}) for codec in kinds]
    await penstock.run_worker(a_worker(kinds[-1]))
    client = await penstock.client(codec=kinds[-1])
    assert [await client.run(run.execution_id).result(WAIT_S) for run in runs] == [{"n": SECRET}] * 3
    shown = [(await penstock.get(run.execution_id))["result"]["penstock.codec"]["key"] for run in runs]
    assert shown == ["new"] * 3


async def test_an_input_that_a_worker_cannot_decode_fails_the_attempt_and_is_kept(
    penstock: RunningPenstock,
) -> None:
    client = await penstock.client(codec=AesGcm("new", {"new": KEY}))
    worker = await penstock.run_worker(a_worker(AesGcm("old", {"old": OLD})))
    run = await client.submit("echo", {"n": 1}, max_attempts=2, backoff={"delay_ms": 0})
    with pytest.raises(ExecutionFailed, match="encrypted with key 'new'; this side has old") as failed:
        await run.result(WAIT_S)
    assert failed.value.category == "unknown_key" and failed.value.record.attempt_index == 2
    plain = await client.submit("echo", {"n": 2}, max_attempts=1)
    worker.stop()
    with pytest.raises(ExecutionFailed) as lost:
        await plain.result(WAIT_S)
    # Nothing is lost: a worker with the key can do it again.
    await penstock.run_worker(a_worker(AesGcm("new", {"new": KEY})))
    assert await (await client.replay(lost.value.record.execution_id)).result(WAIT_S) == {"n": 2}


async def test_a_worker_without_a_codec_says_so(penstock: RunningPenstock) -> None:
    client = await penstock.client(codec=AesGcm("k", {"k": KEY}))
    await penstock.run_worker(a_worker())
    with pytest.raises(ExecutionFailed, match="this worker has none") as failed:
        await (await client.submit("echo", {"n": 1})).result(WAIT_S)
    assert failed.value.category == "unknown_codec"


async def test_a_result_that_the_caller_cannot_decode_is_an_error_of_its_own(
    penstock: RunningPenstock,
) -> None:
    codec = AesGcm("k", {"k": KEY})
    run = await (await penstock.client(codec=codec)).submit("echo", "x")
    await penstock.run_worker(a_worker(codec))
    stranger = await penstock.client(codec=AesGcm("other", {"other": OLD}))
    with pytest.raises(UnknownKey, match="key 'k'; this side has other"):
        await stranger.run(run.execution_id).result(WAIT_S, type=str)
    record = await stranger.get(run.execution_id)
    assert record.state == "completed" and b"penstock.codec" in bytes(record.raw_result)


async def test_large_payloads_are_put_aside(penstock: RunningPenstock, bucket: str) -> None:
    codec = Offload(limit=1000, bucket=bucket)
    client = await penstock.client(codec=codec)
    await penstock.run_worker(a_worker(codec))
    large = "x" * 3_000_000  # more than a payload or a NATS message may have
    first, second = await client.submit_many([("echo", large), ("echo", "small")])
    assert (await first.result(WAIT_S), await second.result(WAIT_S)) == (large, "small")
    kept = await penstock.get(first.execution_id)
    assert kept["input"]["penstock.codec"]["size"] == str(len(large) + 2)
    assert (await penstock.get(second.execution_id))["input"] == "small"


async def test_an_object_that_is_gone_is_told(penstock: RunningPenstock, bucket: str) -> None:
    codec = Offload(limit=10, bucket=bucket)
    client = await penstock.client(codec=codec)
    run = await client.submit("echo", "x" * 100)
    await penstock.js.delete_object_store(bucket)
    await penstock.run_worker(a_worker(codec))
    with pytest.raises(ExecutionFailed, match="not in the bucket") as failed:
        await run.result(WAIT_S)
    assert failed.value.category == "object_missing"
    with pytest.raises(ObjectMissing):
        _ = failed.value.record.input
    # The bucket is made again when it is needed.
    assert await (await client.submit("echo", "y" * 100)).result(WAIT_S) == "y" * 100


async def test_a_bucket_keeps_objects_for_its_ttl(penstock: RunningPenstock, bucket: str) -> None:
    offload = Offload(limit=10, bucket=bucket, ttl=0.2)
    client = await penstock.client(codec=offload)
    run = await client.submit("echo", "x" * 100)
    assert (await run.get()).input == "x" * 100
    store = await penstock.js.object_store(bucket)

    async def objects() -> int:
        return (await store.status()).stream_info.state.messages

    await penstock.until(objects, lambda count: count == 0)
    with pytest.raises(ObjectMissing, match="not in the bucket"):
        _ = (await run.get()).input


async def test_an_object_store_out_of_reach_is_a_timeout_and_passes(
    penstock: RunningPenstock, bucket: str, nats_url: str
) -> None:
    nats = await connect(nats_url, "test")
    offload = Offload(limit=0, bucket=bucket).on(nats)
    fields = await offload.encode(b'"x"')
    assert fields is not None and await offload.decode(fields) == b'"x"'
    await nats.close()
    for work in (offload.encode(b'"x"'), offload.decode(fields)):
        with pytest.raises(errors.UnavailableError, match=r"object store .* cannot be reached") as told:
            await work
        assert told.value.code == "timeout" and told.value.retryable
    assert await offload.on(penstock.nats).decode(fields) == b'"x"'
    with pytest.raises(CodecError, match="has no connection"):
        await Offload(limit=0).encode(b'"x"')


class Fragile(PayloadCodec):
    """Cannot encode what says so."""

    name = "fragile"

    async def encode(self, payload: bytes) -> Mapping[str, str]:
        if b"bad" in payload:
            raise errors.invalid("payload", "it is bad")
        return {"text": payload.hex()}

    async def decode(self, fields: Mapping[str, str]) -> bytes:
        return bytes.fromhex(fields["text"])


async def test_what_cannot_be_encoded_is_refused_and_its_neighbours_pass(penstock: RunningPenstock) -> None:
    client = await penstock.client(codec=Fragile())
    worker = Worker(codec=Fragile())

    @worker.handler("give")
    async def give(input: str) -> str:
        return input.replace("-", "")

    await penstock.run_worker(worker)
    runs = await client.submit_many([("give", "bad"), ("give", "good")], return_errors=True)
    assert isinstance(runs[0], errors.InvalidError) and not isinstance(runs[1], errors.PenstockError)
    assert await runs[1].result(WAIT_S) == "good"
    # A result that cannot be encoded fails the attempt, instead of leaving its lease to expire.
    with pytest.raises(ExecutionFailed, match="it is bad") as failed:
        await (await client.submit("give", "b-ad")).result(WAIT_S)
    assert failed.value.category == "invalid_request"


async def test_a_call_of_any_verb_is_coded_too(penstock: RunningPenstock) -> None:
    codec = AesGcm("k", {"k": KEY})
    client = await penstock.client(codec=codec)
    created = await client.call("execution.create", {"kind": "echo", "input": [SECRET]})
    shown = await penstock.get(msgspec.to_builtins(created)["execution_id"])
    assert shown["input"].keys() == {"penstock.codec"}
    record: Any = await client.call("execution.get", {"execution_id": shown["execution_id"]})
    assert record.input == [SECRET]
