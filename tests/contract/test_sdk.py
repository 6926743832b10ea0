"""The SDK against the real services, end to end, as a user writes it."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
import pytest

from penstock import Client, ExecutionCanceled, ExecutionFailed, Fail, Retry, Suspend, Task, Worker, errors
from running_penstock import RunningPenstock

WAIT_S = 60.0

Working = Callable[[Worker], AbstractAsyncContextManager[Worker]]


class Receipt(msgspec.Struct):
    to: str
    number: int


@pytest.fixture
def worker(penstock: RunningPenstock) -> Worker:
    return Worker(penstock.settings.nats_url, root=penstock.root, concurrency=8, grace=5.0)


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    running = asyncio.create_task(worker.run(handle_signals=False))
    yield worker
    worker.stop()
    await asyncio.wait_for(running, WAIT_S)


async def test_the_first_example_of_the_contract(client: Client, worker: Worker) -> None:
    @worker.handler("mail.send")
    async def send(task: Task, to: str, subject: str) -> Receipt:
        assert subject == "hi" and task.tags == {"team": "a"}
        return Receipt(to, 2**60 + 1)

    async with working(worker):
        mail = {"to": "a@example.com", "subject": "hi"}
        run = await client.submit("mail.send", mail, max_attempts=5, tags={"team": "a"})
        assert await run.result(timeout=WAIT_S, type=Receipt) == Receipt("a@example.com", 2**60 + 1)
        assert await run.result(timeout=WAIT_S) == {"to": "a@example.com", "number": 2**60 + 1}
    record = await client.get(run.execution_id)
    assert (record.state, record.attempt_index) == ("completed", 1)
    events = [event.event async for event in client.history(run.execution_id)]
    assert events[0] == "created" and events[-1] == "completed"


async def test_records_have_plain_values_and_keep_the_bytes(client: Client, worker: Worker) -> None:
    text = '{"n": 1.0, "big": 9223372036854775808, "é": "\\u00e9"}'
    value = {"n": 1.0, "big": 2**63, "é": "é"}

    @worker.handler("echo")
    async def echo(task: Task) -> msgspec.Raw:
        await task.append_frame("seen", task.raw_input)
        assert task.input == value
        return task.raw_input

    async with working(worker):
        run = await client.submit("echo", msgspec.Raw(text.encode()))
        assert await run.result(timeout=WAIT_S) == value
    record = await client.get(run.execution_id)
    [listed] = [each async for each in client.list(kind="echo")]
    [frame] = [each async for each in client.frames(run.execution_id)]
    assert record.input == record.result == listed.result == frame.payload == value
    assert frame.metadata is None and bytes(frame.raw_payload) == text.encode()
    passed_on = await (await client.submit("other", record.raw_result)).get()
    assert bytes(passed_on.raw_input) == text.encode() and passed_on.result is None
    assert f'"input":{text},"result":{text}'.encode() in msgspec.json.encode(record)


async def test_failures_and_retries(client: Client, worker: Worker) -> None:
    attempts: list[int] = []

    @worker.handler("flaky")
    async def flaky(task: Task) -> str:
        attempts.append(task.attempt_index)
        if len(attempts) < 3:
            raise Retry(after=0.01)
        return "at last"

    @worker.handler("hopeless")
    def hopeless() -> None:
        raise Fail("no such card", "card")

    @worker.handler("broken")
    async def broken() -> None:
        raise ZeroDivisionError("oops")

    async with working(worker):
        run = await client.submit("flaky", max_attempts=5)
        assert await run.result(timeout=WAIT_S) == "at last"
        with pytest.raises(ExecutionFailed) as caught:
            await (await client.submit("hopeless", max_attempts=5)).result(timeout=WAIT_S)
        assert (caught.value.category, caught.value.reason) == ("card", "no such card")
        with pytest.raises(ExecutionFailed, match="zero_division_error"):
            await (await client.submit("broken")).result(timeout=WAIT_S)
    assert attempts == [1, 2, 3]


async def test_many_at_once(client: Client, worker: Worker) -> None:
    @worker.handler("double")
    async def double(n: int) -> int:
        return 2 * n

    async with working(worker):
        runs = await client.submit_many((("double", {"n": n}) for n in range(300)), lane="default")
        results = await asyncio.gather(*(run.result(timeout=WAIT_S) for run in runs))
    assert results == [2 * n for n in range(300)]
    listed = {record.execution_id async for record in client.list(kind="double", page=100)}
    assert listed == {run.execution_id for run in runs}


async def test_lists_of_large_items(client: Client) -> None:
    large = "x" * 1_000_000  # ten such inputs are more than a message can hold
    runs = await client.submit_many([("large", large)] * 10)
    listed = [record.execution_id async for record in client.list(kind="large")]
    assert sorted(listed) == sorted(run.execution_id for run in runs)


async def test_one_bad_item_of_many(client: Client) -> None:
    items = [("good.one", 1), {"kind": "bad one"}, {"kind": "good.two", "lane": "other"}]
    first, bad, last = await client.submit_many(items, return_errors=True)
    assert isinstance(bad, errors.InvalidRequest) and "kind" in bad.message
    assert (await client.get(first.execution_id)).lane == "default"
    assert (await client.get(last.execution_id)).lane == "other"
    with pytest.raises(errors.InvalidRequest):
        await client.submit_many(items)


async def test_idempotency(client: Client) -> None:
    first = await client.submit("once", 1, idempotency_key="k")
    again = await client.submit("once", 1, idempotency_key="k")
    assert (again.execution_id, first.duplicate, again.duplicate) == (first.execution_id, False, True)
    with pytest.raises(errors.IdempotencyConflict):
        await client.submit("once", 2, idempotency_key="k")


async def test_waiting_ends_in_time(client: Client) -> None:
    run = await client.submit("nobody.runs.this")
    with pytest.raises(TimeoutError, match="is ready after"):
        await run.result(timeout=0.05)
    assert await run.status() == "ready"


async def test_any_verb_by_name(client: Client) -> None:
    run = await client.submit("kind")
    record = await client.call("execution.get", {"execution_id": run.execution_id})
    assert record.kind == "kind"
    with pytest.raises(errors.InvalidRequest, match="execution_id"):
        await client.call("execution.get", {"execution_id": "x"})
    with pytest.raises(errors.InvalidRequest, match="no verb"):
        await client.call("execution.fly")
    with pytest.raises(errors.ExecutionNotFound):
        await client.get(run.execution_id[:-12] + "0" * 12)
    assert [lane.lane async for lane in client.lanes.list()] == ["default"]


async def test_a_flow_with_a_fan_in(client: Client, worker: Worker) -> None:
    @worker.handler("part")
    async def part(n: int) -> int:
        return n

    @worker.handler("sum")
    async def add(input: dict[str, int]) -> int:
        return sum(input.values())

    members: list[dict[str, Any]] = [{"key": f"p{n}", "kind": "part", "input": {"n": n}} for n in range(5)]
    edges = [{"from": f"p{n}", "to": "total", "data": f"p{n}"} for n in range(5)]
    flow = await client.flows.create(
        "add up", members=[*members, {"key": "total", "kind": "sum"}], edges=edges
    )
    async with working(worker):
        await flow.start()
        assert (await flow.wait(timeout=WAIT_S)).status == "finished"
        assert await flow.members["total"].result(timeout=WAIT_S) == 10
    graph = await flow.graph()
    assert {member["state"] for member in graph.members} == {"completed"}
    assert [f.flow_id async for f in client.flows.list(status="finished")] == [flow.flow_id]


@pytest.mark.parametrize("how", ["requested", "published"])
async def test_an_approval(client: Client, worker: Worker, how: str) -> None:
    tokens: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    @worker.handler("approval")
    async def approval(task: Task) -> Any:
        if task.resumed:
            [signal] = await task.resumed_by()
            return {"by": signal.payload["by"], "name": signal.name}
        waitpoint = await task.create_waitpoint("approval")
        tokens.put_nowait((waitpoint.waitpoint_id, waitpoint.token))
        raise Suspend("approved", timeout=60, waitpoint=waitpoint)

    async with working(worker):
        run = await client.submit("approval")
        waitpoint_id, token = await asyncio.wait_for(tokens.get(), WAIT_S)
        if how == "published":
            await client.publish_signal(waitpoint_id, "approved", token, {"by": "me"}, signal_id="s1")
            await client.publish_signal(waitpoint_id, "approved", token, {"by": "me"}, signal_id="s1")
        else:
            delivered = await client.signal(token, "approved", {"by": "me"})
            assert delivered.effect in ("buffered", "resumed")
        assert await run.result(timeout=WAIT_S) == {"by": "me", "name": "approved"}


async def test_cancelling(client: Client, worker: Worker) -> None:
    began = asyncio.Event()

    @worker.handler("endless")
    async def endless() -> None:
        began.set()
        await asyncio.Event().wait()

    waiting = await client.submit("nobody.runs.this", lane="idle")
    await waiting.cancel("not needed")
    with pytest.raises(ExecutionCanceled):
        await waiting.result(timeout=WAIT_S)
    async with working(worker):
        run = await client.submit("endless")
        await asyncio.wait_for(began.wait(), WAIT_S)
        await run.cancel("enough", grace_ms=20_000)
        with pytest.raises(ExecutionCanceled) as caught:
            await run.result(timeout=WAIT_S)
    assert caught.value.record.outcome == "canceled"


async def test_a_mirrored_flow(client: Client) -> None:
    flow = await client.flows.create_mirrored("follow a build", completion="on_task", completion_task="link")
    step = await flow.observe("run1", "compile", "running")
    assert (step.status, step.runtime) == ("running", "mirrored")
    await flow.publish_observation("run1", "compile", "succeeded", {"files": 3})
    await flow.publish_observation("run2", "link", "succeeded")
    assert (await flow.wait(timeout=WAIT_S)).status == "finished"
    steps = [(step.task, step.status) async for step in flow.steps()]
    assert steps == [("compile", "succeeded"), ("link", "succeeded")]


async def test_who_suspends_can_hand_the_token_on(client: Client, worker: Worker) -> None:
    tokens: asyncio.Queue[str | None] = asyncio.Queue()

    @worker.handler("ask")
    async def ask(task: Task) -> Any:
        if task.resumed:
            return [signal.payload for signal in await task.resumed_by()]
        raise Suspend("approved", on_suspended=lambda reply: tokens.put(reply.token))

    async with working(worker):
        run = await client.submit("ask")
        delivered = await client.signal(await tokens.get() or "", "approved", {"by": "me"})
        assert delivered.effect == "resumed"
        assert await run.result(timeout=WAIT_S) == [{"by": "me"}]


async def test_operators_and_flows_that_wait_by_the_sdk(client: Client, worker: Worker) -> None:
    @worker.handler("ask")
    async def ask(task: Task) -> Any:
        if task.resumed:
            return len(await task.resumed_by())
        raise Suspend("approved")

    async with working(worker):
        run = await client.submit("ask")
        while await run.status() != "suspended":
            await run.get()
        [waitpoint] = [each async for each in client.waitpoints.list(execution_id=run.execution_id)]
        assert (waitpoint.status, waitpoint.missing) == ("active", ["a signal 'approved'"])
        assert (await client.send_signal(run.execution_id, "approved")).effect == "resumed"
        assert await run.result(timeout=WAIT_S) == 1
    flow = await client.flows.create("g", members=[{"key": "a", "kind": "k"}])
    await flow.start()
    assert (await flow.wait_for_event("ci.build", "7")).status == "waiting"
    await client.publish_event("ci.build", "7", {"ok": True})
    while (found := await flow.get()).status != "running":
        pass
    assert found.state == {"event": {"ok": True}}
    assert (await flow.wait_for_resume()).status == "waiting"
    assert (await flow.resume({"on": 1})).status == "running"
    assert (await flow.wait_until(1)).status == "running"
    with pytest.raises(errors.PenstockError, match="revision") as late:
        await flow.wait_until(1, expected_revision=1)
    assert late.value.code == "revision_mismatch"


async def test_sigterm_drains_a_worker_process(client: Client, penstock: RunningPenstock) -> None:
    program = f"""
import asyncio
import signal
import sys
from penstock import Task, Worker
worker = Worker({penstock.settings.nats_url!r}, root={penstock.root!r}, concurrency=1)

@worker.handler("slow")
async def slow(task: Task):
    await task.progress(1, "began")
    await asyncio.sleep(0.3)
    return "finished"

worker.main()
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        running, waiting = await client.submit_many([("slow", None), ("slow", None)])

        async def begun() -> bool:
            return (await client.get(running.execution_id)).progress is not None

        await penstock.until(begun, bool, "the first one runs")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await running.result(timeout=WAIT_S) == "finished"
    assert await waiting.status() == "ready"


async def test_a_handler_that_ignores_its_end_does_not_keep_the_process(
    client: Client, penstock: RunningPenstock
) -> None:
    program = f"""
import asyncio
from penstock import Task, Worker
worker = Worker({penstock.settings.nats_url!r}, root={penstock.root!r}, grace=0.1)

@worker.handler("stubborn")
async def stubborn(task: Task):
    await task.progress(1, "began")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

worker.main()
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        run = await client.submit("stubborn")

        async def begun() -> bool:
            return (await client.get(run.execution_id)).progress is not None

        await penstock.until(begun, bool, "it runs")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_events_as_they_happen(client: Client) -> None:
    async with client.events(entity="execution") as events:
        run = await client.submit("watched")
        event = await events.next(WAIT_S)
    assert (event.id, event.event, event.seq) == (run.execution_id, "created", 1)
