"""OpenTelemetry: spans of submits and attempts in one trace, with the SDK's in-memory exporter and a real Penstock."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from penstock import ExecutionFailed, Fail, Suspend, Task, Worker
from penstock.client import Client
from penstock.codecs import AesGcm
from penstock.sdk.requester import Extras
from penstock.sdk.tracing import tracing
from running_penstock import RunningPenstock

WAIT_S = 60.0
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter, penstock: RunningPenstock) -> None:
        self._exporter = exporter
        self._penstock = penstock

    def __call__(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    async def until(self, *names: str) -> list[ReadableSpan]:
        """Wait until spans with these names have ended, and return them in this order, the earlier first of a name."""

        async def look() -> list[ReadableSpan]:
            return sorted(self(), key=lambda span: span.start_time or 0)

        def enough(found: list[ReadableSpan]) -> bool:
            return sorted(span.name for span in found) == sorted(names)

        found = await self._penstock.until(look, enough, f"spans {names}")
        return [found.pop(next(i for i, span in enumerate(found) if span.name == name)) for name in names]


@pytest.fixture
async def spans(penstock: RunningPenstock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Spans]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # A process sets its provider once and for all. Here, only this test's clients and workers may see it.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield Spans(exporter, penstock)
    provider.shutdown()


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
async def client(penstock: RunningPenstock, spans: Spans) -> Client:
    return await penstock.client()


async def test_one_trace_from_the_submit_over_two_attempts_to_the_child(
    penstock: RunningPenstock, client: Client, spans: Spans
) -> None:
    worker = Worker()

    @worker.handler("order")
    def order(task: Task) -> None:
        # A sync handler runs in a thread: its attempt is the current span there too, also for what it runs in the loop.
        if task.attempt_index == 1:
            raise ValueError("no stock")
        task.run(task.create_child("mail"))

    @worker.handler("mail")
    async def mail() -> str:
        return f"{trace.get_current_span().get_span_context().span_id}"

    await penstock.run_worker(worker)
    with trace.get_tracer("test").start_as_current_span("request"):
        run = await client.submit("order", max_attempts=2, backoff={"delay_ms": 0})
    await run.result(WAIT_S)
    names = ("request", "submit order", "attempt order", "attempt order", "submit mail", "attempt mail")
    request, submit, first, second, child_submit, child = await spans.until(*names)
    assert len({span.get_span_context().trace_id for span in spans()}) == 1
    assert parent_of(submit) == id_of(request)
    assert parent_of(first) == parent_of(second) == id_of(submit)
    assert parent_of(child_submit) == id_of(second) and parent_of(child) == id_of(child_submit)
    assert [span.kind for span in (submit, first, child)] == [
        SpanKind.PRODUCER,
        SpanKind.CONSUMER,
        SpanKind.CONSUMER,
    ]
    assert [link.context.span_id for link in first.links] == [id_of(submit)]

    common = {
        "messaging.system": "penstock",
        "messaging.destination.name": "default",
        "messaging.message.id": run.execution_id,
        "penstock.execution_id": run.execution_id,
        "penstock.kind": "order",
        "penstock.lane": "default",
    }
    assert attributes(submit) == {
        **common,
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
    }
    attempt = {
        **common,
        "messaging.operation.name": "attempt",
        "messaging.operation.type": "process",
        "penstock.resumed": False,
    }
    assert attributes(first) == {
        **attempt,
        "penstock.attempt": 1,
        "penstock.outcome": "retry_scheduled",
        "error.type": "value_error",
    }
    assert attributes(second) == {**attempt, "penstock.attempt": 2, "penstock.outcome": "completed"}
    assert first.status.status_code is StatusCode.ERROR and "no stock" in str(first.status.description)
    assert [event.name for event in first.events] == ["exception"] and second.status.is_unset
    [mailed] = [each async for each in client.list(kind="mail")]
    assert mailed.result == str(id_of(child))
    # The execution keeps the context, so that it can be found from either side.
    ids = submit.get_span_context()
    kept = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
    assert (await client.get(run.execution_id)).traceparent == kept


async def test_a_resumed_attempt_has_a_span_for_each_run(
    penstock: RunningPenstock, client: Client, spans: Spans
) -> None:
    worker = Worker()

    @worker.handler("approve")
    async def approve(task: Task) -> None:
        if not task.resumed:
            raise Suspend("go")
        await task.complete("done", children=[("later", None)])

    @worker.handler("later")
    async def later() -> None:
        raise Fail("never", "refused")

    await penstock.run_worker(worker)
    run = await client.submit("approve")
    await penstock.wait_for(run, "suspended")
    await client.send_signal(run.execution_id, "go")
    _, first, second, child = await spans.until(
        "submit approve", "attempt approve", "attempt approve", "attempt later"
    )
    runs = [
        (attributes(span)["penstock.resumed"], attributes(span)["penstock.outcome"])
        for span in (first, second)
    ]
    assert runs == [(False, "suspended"), (True, "completed")]
    assert attributes(first)["penstock.attempt"] == attributes(second)["penstock.attempt"] == 1
    # A child that comes with the completion has no submit of its own: its parent is the attempt.
    assert parent_of(child) == id_of(second)
    assert (attributes(child)["penstock.outcome"], attributes(child)["error.type"]) == (
        "terminal_failed",
        "refused",
    )


async def test_members_of_a_flow_and_replays_belong_to_their_submitters(
    penstock: RunningPenstock, client: Client, spans: Spans
) -> None:
    worker = Worker()

    @worker.handler("step")
    async def step() -> None: ...

    await penstock.run_worker(worker)
    flow = await client.flows.create(
        "g", members=[{"key": k, "kind": "step"} for k in "ab"], edges=[("a", "b")]
    )
    await flow.start()
    await flow.wait(WAIT_S)
    submit, first, second = await spans.until("submit flow", "attempt step", "attempt step")
    assert parent_of(first) == parent_of(second) == id_of(submit)
    assert attributes(submit)["penstock.flow_id"] == flow.flow_id
    assert attributes(submit)["messaging.batch.message_count"] == 2
    await (await client.replay(flow.members["a"].execution_id)).result(WAIT_S)
    *_, replay, again = await spans.until(
        "submit flow", "attempt step", "attempt step", "replay", "attempt step"
    )
    assert parent_of(again) == id_of(replay)


async def test_a_refused_submit_and_one_that_came_twice(client: Client, spans: Spans) -> None:
    with pytest.raises(Exception, match="lane"):
        await client.submit("job", lane="no lane")
    [refused] = spans()
    assert (
        refused.status.status_code is StatusCode.ERROR
        and attributes(refused)["error.type"] == "invalid_request"
    )
    # Two submits have two spans, but under one idempotency key they are one request.
    runs = [await client.submit("job", {"n": 1}, idempotency_key="k") for _ in range(2)]
    assert (
        runs[0].execution_id == runs[1].execution_id and attributes(spans()[-1])["penstock.duplicate"] is True
    )


async def test_a_context_that_the_caller_gives_is_taken_as_it_is(
    penstock: RunningPenstock, client: Client, spans: Spans
) -> None:
    worker = Worker(codec=AesGcm("k", {"k": bytes(32)}))

    @worker.handler("job")
    async def job() -> None: ...

    await penstock.run_worker(worker)
    await (await client.submit("job", traceparent=TRACEPARENT)).result(WAIT_S)
    [attempt] = await spans.until("attempt job")
    assert f"{parent_of(attempt):016x}" in TRACEPARENT
    with pytest.raises(Exception, match="traceparent"):
        await client.submit("job", traceparent="00-xyz")


async def test_a_coded_payload_is_traced_too(penstock: RunningPenstock, spans: Spans) -> None:
    codec = AesGcm("k", {"k": bytes(32)})
    client, worker = await penstock.client(codec=codec), Worker(codec=AesGcm("other", {"other": bytes(32)}))

    @worker.handler("job")
    async def job(input: Any) -> None: ...

    await penstock.run_worker(worker)
    with pytest.raises(ExecutionFailed):
        await (await client.submit("job", {"n": 1})).result(WAIT_S)
    submit, attempt = await spans.until("submit job", "attempt job")
    assert parent_of(attempt) == id_of(submit) and attributes(attempt)["error.type"] == "unknown_key"


async def test_without_a_provider_nothing_is_traced(penstock: RunningPenstock) -> None:
    assert tracing() is None
    requester = Extras.of(penstock.nats, None).requester(penstock.nats, penstock.root)
    assert type(requester).__name__ == "Requester"
    run = await (await penstock.client()).submit("job")
    assert (await run.get()).traceparent is None
    assert (await penstock.begin())["traceparent"] is None
