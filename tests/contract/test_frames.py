"""Frames are stored, read and followed live (contract §3), over NATS and through the SDK."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from penstock import Client, Task, Worker, errors
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence


async def put(
    penstock: RunningPenstock, task: dict[str, Any], payload: Any = None, **fields: Any
) -> dict[str, Any]:
    body = {**fence(task), "frame_type": "log", "payload": payload, **fields}
    return await penstock.request("lease.frame", body)


async def read(penstock: RunningPenstock, execution_id: str, **fields: Any) -> dict[str, Any]:
    return await penstock.request("frame.read", {"execution_id": execution_id, **fields})


class TestVerbs:
    async def test_stored_in_order_and_byte_for_byte(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        assert await put(penstock, task, {"n": 1}) == {"index": 1, "count": 1}
        body = msgspec.json.encode({**fence(task), "frame_type": "token.delta"})[:-1]
        await penstock.ask(
            "lease.frame", body + b',"payload":{"x": 1.50,"e":[]},"metadata":9007199254740993}'
        )
        reply = await penstock.ask("frame.read", msgspec.json.encode({"execution_id": execution_id}))
        assert b'"payload":{"x": 1.50,"e":[]},"metadata":9007199254740993' in reply.data
        first, second = msgspec.json.decode(reply.data)["items"]
        assert first["payload"] == {"n": 1} and first["metadata"] is None
        assert (second["index"], second["frame_type"], second["attempt_index"]) == (2, "token.delta", 1)
        assert first["at"] <= second["at"]

    async def test_pages(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        assert await read(penstock, execution_id) == {"items": [], "cursor": None}
        body = [{**fence(task), "frame_type": "log", "payload": n} for n in range(1, 26)]
        answers = await penstock.request("lease.frame", body)
        assert [answer["ok"]["index"] for answer in answers] == list(range(1, 26))
        page = await read(penstock, execution_id, limit=10)
        seen = [frame["payload"] for frame in page["items"]]
        assert len(seen) == 10
        while page["cursor"] is not None:
            page = await read(penstock, execution_id, limit=10, cursor=page["cursor"])
            seen += [frame["payload"] for frame in page["items"]]
        assert seen == list(range(1, 26))
        assert [frame["index"] for frame in (await read(penstock, execution_id, after=23))["items"]] == [
            24,
            25,
        ]

    async def test_large_ones_come_in_short_pages(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        for n in range(12):
            await put(penstock, task, "x" * 1_000_000, metadata=n)
        page = await read(penstock, execution_id, limit=1000)
        seen = [frame["metadata"] for frame in page["items"]]
        assert 0 < len(seen) < 12
        while page["cursor"] is not None:
            page = await read(penstock, execution_id, limit=1000, cursor=page["cursor"])
            seen += [frame["metadata"] for frame in page["items"]]
        assert seen == list(range(12))

    async def test_by_attempt(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create(max_attempts=2, backoff={"delay_ms": 1})
        first = await penstock.begin()
        await put(penstock, first, "one")
        await penstock.request("lease.fail", {**fence(first), "reason": "r"})
        second = await penstock.begin()
        assert await put(penstock, second, "two") == {"index": 2, "count": 2}
        items = (await read(penstock, execution_id, attempt_index=2))["items"]
        assert [(frame["index"], frame["payload"]) for frame in items] == [(2, "two")]

    async def test_a_repeat_is_stored_once(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        await put(penstock, task, "a", position=1)
        await put(penstock, task, "b", position=2)
        again = await put(penstock, task, "a", position=1)
        assert again == {"index": 1, "count": 2, "duplicate": True}
        error = await penstock.refused("lease.frame", {**fence(task), "frame_type": "log", "position": 4})
        assert (error.code, error.detail["field"]) == ("invalid_request", "position")
        assert [frame["payload"] for frame in (await read(penstock, execution_id))["items"]] == ["a", "b"]

    async def test_live(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        heard = await penstock.nats.subscribe(f"{penstock.root}.frame.{execution_id}")
        await put(penstock, task, {"a": 1}, position=1)
        await put(penstock, task, {"a": 1}, position=1)
        await put(penstock, task, {"b": 2}, position=2)
        frames = [msgspec.json.decode((await heard.next_msg(timeout=WAIT_S)).data) for _ in range(2)]
        assert frames == (await read(penstock, execution_id))["items"]

    async def test_the_fence(self, penstock: RunningPenstock) -> None:
        await penstock.create()
        task = await penstock.begin()
        stale = {**fence(task), "lease_epoch": 7, "frame_type": "log"}
        assert (await penstock.refused("lease.frame", stale)).code == "stale_lease"
        await penstock.request("lease.complete", fence(task))
        error = await penstock.refused("lease.frame", {**fence(task), "frame_type": "log"})
        assert error.code == "execution_not_active"
        assert (await penstock.refused("frame.read", {"execution_id": NOWHERE})).code == "execution_not_found"

    async def test_there_is_an_end_to_their_number(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        body = [{**fence(task), "frame_type": "log"}] * 5000
        for _ in range(2):
            await penstock.request("lease.frame", body)
        error = await penstock.refused("lease.frame", {**fence(task), "frame_type": "log"})
        assert error.code == "payload_too_large"
        assert error.detail == {"field": "frames", "limit": 10_000, "size": 10_001}
        assert (await read(penstock, execution_id, after=9_999))["items"][0]["index"] == 10_000

    async def test_they_leave_with_their_execution(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create(retention_ms=60_000)
        task = await penstock.begin()
        await put(penstock, task, "x")
        await penstock.request("lease.complete", fence(task))
        assert (await read(penstock, execution_id))["items"]
        penstock.move_clock(61_000)

        async def code() -> str:
            try:
                await read(penstock, execution_id)
            except errors.PenstockError as error:
                return error.code
            return ""

        await penstock.until(code, lambda seen: seen == "execution_not_found")


@pytest.fixture
def worker(penstock: RunningPenstock) -> Worker:
    return Worker(penstock.settings.nats_url, root=penstock.root, concurrency=4, grace=5.0)


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    running = asyncio.create_task(worker.run(handle_signals=False))
    yield
    worker.stop()
    await asyncio.wait_for(running, WAIT_S)


class TestSdk:
    async def test_followed_from_the_first_to_the_last(self, client: Client, worker: Worker) -> None:
        halfway, go_on = asyncio.Event(), asyncio.Event()

        @worker.handler("talk")
        async def talk(task: Task) -> str:
            for n in range(50):
                stored = await task.append_frame("token", n)
                assert stored.index == n + 1
            halfway.set()
            await go_on.wait()
            await asyncio.gather(*(task.append_frame("token", n, {"n": n}) for n in range(50, 300)))
            return "done"

        async with working(worker):
            run = await client.submit("talk")
            await asyncio.wait_for(halfway.wait(), 20)
            seen: list[int] = []
            async with asyncio.timeout(WAIT_S):
                async for frame in client.frames(run.execution_id, follow=True):
                    seen.append(frame.payload)
                    go_on.set()
            assert seen == list(range(300))
            assert await run.result(timeout=WAIT_S) == "done"
            assert [frame.index async for frame in client.frames(run.execution_id, after=298)] == [299, 300]

    async def test_one_that_is_too_large_does_not_hurt_the_rest(self, client: Client, worker: Worker) -> None:
        @worker.handler("talk")
        async def talk(task: Task) -> list[str]:
            payloads = ["a", "x" * 2_000_000, "b", "c"]
            frames = (task.append_frame("token", payload) for payload in payloads)
            answers = await asyncio.gather(*frames, return_exceptions=True)
            return [getattr(each, "code", None) or str(each.index) for each in answers]  # type: ignore[union-attr]

        async with working(worker):
            run = await client.submit("talk")
            assert await run.result(timeout=WAIT_S) == ["1", "payload_too_large", "2", "3"]
            frames = [frame.payload async for frame in client.frames(run.execution_id)]
            assert frames == ["a", "b", "c"]

    async def test_a_keeper_that_restarts_loses_and_doubles_none(
        self, penstock: RunningPenstock, client: Client, worker: Worker
    ) -> None:
        @worker.handler("talk")
        async def talk(task: Task) -> None:
            for n in range(200):
                await task.append_frame("token", n)

        async with working(worker):
            run = await client.submit("talk")
            await penstock.until(
                lambda: read(penstock, run.execution_id, limit=1), lambda page: page["items"]
            )
            await penstock.running["lease-keeper"].stop()
            await penstock.start_again("lease-keeper")
            await run.result(timeout=WAIT_S)
            seen = [frame.payload async for frame in client.frames(run.execution_id)]
            assert seen == list(range(200))
