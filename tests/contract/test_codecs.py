"""Payload codecs against the real services: nothing that passes through a codec is readable outside the SDK."""

import asyncio
from typing import Any

import redis.asyncio as valkey
from nats.js.errors import NotFoundError

from penstock import Client, Suspend, Task, Worker
from penstock.bus import streams
from penstock.codecs import AesGcm, Codecs, Offload
from penstock.store.places import parse
from penstock.store.topology import topology_of
from running_penstock import RunningPenstock

WAIT_S = 60.0
SECRET = "4111-1111"
KEY = bytes(range(32))


def a_worker(codec: Codecs = None) -> Worker:
    """A worker whose handlers use payloads in every way."""
    worker = Worker(codec=codec, concurrency=8)

    @worker.handler("echo")
    async def echo(input: Any) -> Any:
        return input

    @worker.handler("parent")
    async def parent(task: Task, card: str) -> Any:
        if not task.resumed:
            await asyncio.gather(*(task.append_frame("seen", {"n": n, "card": card}) for n in range(3)))
            waitpoint = await task.create_waitpoint("go")
            await task.append_frame("token", waitpoint.token)
            raise Suspend("go", waitpoint=waitpoint)
        [signal] = await task.resumed_by()
        assert signal.payload_as(dict[str, str]) == signal.payload
        child = await task.create_child("echo", {"child": card})
        return await task.complete({"said": signal.payload, "child": child}, children=[("echo", [card])])

    return worker


async def everything_kept(penstock: RunningPenstock) -> bytes:
    """Return all values in Valkey and all messages of all streams of this Penstock."""
    kept: list[bytes] = []
    topology = topology_of(parse(penstock.settings.valkey_url))
    await topology.refresh()
    for url in topology.urls():
        async with valkey.Redis.from_url(url) as store:
            async for key in store.scan_iter(f"{penstock.root}:*", count=1000):
                kept.append(await store.dump(key) or b"")
                kind = await store.type(key)
                if kind == b"hash":  # a dump may be compressed, so the values are read too
                    kept += (await store.hgetall(key)).values()
                elif kind == b"list":
                    kept += await store.lrange(key, 0, -1)
                elif kind == b"string":
                    kept.append(await store.get(key) or b"")
    for stream in streams.definitions(penstock.root):
        state = (await penstock.js.stream_info(str(stream.name))).state
        for seq in range(max(1, state.first_seq), state.last_seq + 1):
            try:
                kept.append((await penstock.js.get_msg(str(stream.name), seq)).data or b"")
            except NotFoundError:
                continue
    return b"\n".join(kept)


async def use_everything(penstock: RunningPenstock, client: Client) -> None:
    """Send the secret through every payload there is, and read it back."""
    parent = await client.submit("parent", {"card": SECRET}, idempotency_key="one")
    again = await client.submit("parent", {"card": SECRET}, idempotency_key="one")
    assert again.duplicate and again.execution_id == parent.execution_id
    frames: list[Any] = []
    async for frame in client.frames(parent.execution_id, follow=True):
        frames.append(frame.payload)
        if frame.frame_type == "token":
            waitpoint_id = (await penstock.request("waitpoint.list", {"execution_id": parent.execution_id}))[
                "items"
            ][0]
            await client.publish_signal(waitpoint_id["waitpoint_id"], "go", frame.payload, {"pin": SECRET})
    assert frames[:3] == [{"n": n, "card": SECRET} for n in range(3)]
    record = await parent.wait(WAIT_S)
    assert record.input == {"card": SECRET} and record.result["said"] == {"pin": SECRET}
    assert await client.run(record.result["child"]).result(WAIT_S) == {"child": SECRET}
    assert await (await client.replay(record.result["child"], input=[SECRET])).result(WAIT_S) == [SECRET]
    assert [SECRET] in [each.input async for each in client.list(kind="echo")]

    flow = await client.flows.create(
        "a goal",
        members=[{"key": "a", "kind": "echo", "input": {"a": SECRET}}, {"key": "b", "kind": "echo"}],
        edges=[{"from": "a", "to": "b", "data": "data"}],
        state={"first": SECRET, "kept": 1},
    )
    await flow.start()
    assert await flow.members["b"].result(WAIT_S) == {"data": {"a": SECRET}}
    flow = await client.flows.create(
        "waits", members=[{"key": "a", "kind": "echo", "run_at": 2**45}], state={"x": SECRET}
    )
    await flow.start()
    assert (await flow.update_state({"x": 2, "y": [SECRET]})).state == {"x": 2, "y": [SECRET]}
    await flow.wait_for_event("paid", "7")
    await client.publish_event("paid", "7", {"card": SECRET})
    going = await penstock.until(flow.get, lambda found: found.status == "running")
    assert going.state == {"x": 2, "y": [SECRET], "event": {"card": SECRET}}

    mirrored = await client.flows.create_mirrored("mirrored", state={"m": SECRET})
    await mirrored.observe("r1", "one", "succeeded", {"card": SECRET})
    await mirrored.publish_observation("r2", "two", "succeeded", [SECRET])

    async def results() -> list[Any]:
        return [step.result async for step in mirrored.steps()]

    await penstock.until(results, lambda seen: seen == [{"card": SECRET}, [SECRET]])
    schedule = await client.schedules.create("echo", {"card": SECRET}, at=await penstock.clock.now() + 200)
    assert schedule.execution.input == {"card": SECRET}

    async def of_schedule() -> list[Any]:
        return [
            each.result
            async for each in client.list(kind="echo", state="completed")
            if each.input == {"card": SECRET}
        ]

    await penstock.until(of_schedule, lambda seen: seen == [{"card": SECRET}])


async def test_nothing_is_readable_outside_the_sdk(penstock: RunningPenstock, bucket: str) -> None:
    codec = [AesGcm("k1", {"k1": KEY}), Offload(limit=200, bucket=bucket)]
    client = await penstock.client(codec=codec)
    await penstock.run_worker(a_worker(codec))
    await use_everything(penstock, client)
    kept = await everything_kept(penstock)
    assert b"penstock.codec" in kept and b"a goal" in kept
    assert SECRET.encode() not in kept


async def test_without_a_codec_the_same_is_readable(penstock: RunningPenstock) -> None:
    """Shows that the test above looks where the payloads are."""
    client = await penstock.client()
    await penstock.run_worker(a_worker())
    await use_everything(penstock, client)
    assert (await everything_kept(penstock)).count(SECRET.encode()) > 10
