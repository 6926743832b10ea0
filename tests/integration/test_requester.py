"""The requester against a real nats-server and real micro endpoints."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client as Nats

from penstock import errors, verbs
from penstock.bus.calls import Call
from penstock.bus.connection import connect
from penstock.bus.endpoints import Endpoints
from penstock.bus.requester import MAX_ITEMS, Requester
from penstock.messages.executions import ExecutionCreate, ExecutionGet, ExecutionWait
from penstock.messages.flows import FlowGet
from served import until

SOME_ID = "3-01890000-0000-7000-8000-000000000000"


@pytest.fixture
async def nats(nats_url: str) -> AsyncIterator[Nats]:
    client = await connect(nats_url, "test")
    yield client
    await client.close()


@pytest.fixture
async def requester(nats: Nats) -> AsyncIterator[Requester]:
    requester = Requester(nats, timeout=5.0, patience=0.1)
    yield requester
    await requester.close()


@pytest.fixture
async def served(nats_url: str) -> AsyncIterator["Served"]:
    client = await connect(nats_url, "service")
    served = Served(client)
    yield served
    await served.stop()
    await client.close()


class Served:
    """Real endpoints whose handlers a test sets. Keep the requests, and the number of messages that carried them."""

    def __init__(self, client: Nats) -> None:
        self.client = client
        self.calls: list[list[object]] = []
        self._running: list[Endpoints] = []

    async def answer(self, verb: object, function: object) -> None:
        async def handler(call: Call) -> list[object]:
            self.calls.append(list(call.items))
            return [function(item) for item in call.items]

        endpoints = Endpoints(self.client, "scheduler", {verb: handler})
        await endpoints.start()
        self._running.append(endpoints)

    async def stop(self) -> None:
        for endpoints in self._running:
            await endpoints.drain(1.0)


def created(request: ExecutionCreate) -> object:
    if request.kind == "bad":
        return errors.make("idempotency_conflict", detail={"kind": "bad"})
    return {"execution_id": request.kind, "state": "ready", "duplicate": False}


async def messages_seen(nats_url: str, subject: str) -> tuple[Nats, list[bytes]]:
    watcher = await connect(nats_url, "watcher")
    seen: list[bytes] = []

    async def on_message(msg: object) -> None:
        seen.append(msg.data)

    await watcher.subscribe(subject, cb=on_message)
    await watcher.flush()
    return watcher, seen


async def test_a_reply_is_typed(requester: Requester, served: Served) -> None:
    await served.answer(verbs.EXECUTION_CREATE, created)
    reply = await requester.call(verbs.EXECUTION_CREATE, ExecutionCreate(kind="noop"))
    assert (reply.execution_id, reply.state) == ("noop", "ready")


async def test_a_refusal_is_its_own_exception(requester: Requester, served: Served) -> None:
    await served.answer(verbs.EXECUTION_CREATE, created)
    with pytest.raises(errors.IdempotencyConflict) as caught:
        await requester.call(verbs.EXECUTION_CREATE, ExecutionCreate(kind="bad"))
    assert caught.value.detail == {"kind": "bad"}


async def test_requests_of_one_tick_are_one_message(
    nats_url: str, requester: Requester, served: Served
) -> None:
    await served.answer(verbs.EXECUTION_CREATE, created)
    watcher, seen = await messages_seen(nats_url, "penstock.v1.execution.create")
    kinds = [f"kind-{n}" for n in range(100)]
    calls = [requester.call(verbs.EXECUTION_CREATE, ExecutionCreate(kind=kind)) for kind in kinds]
    replies = await asyncio.gather(*calls)
    assert [reply.execution_id for reply in replies] == kinds
    await watcher.drain()  # it has seen all that was sent
    assert len(seen) == 1 and seen[0].startswith(b"[")


async def test_one_bad_item_does_not_hurt_the_rest(requester: Requester, served: Served) -> None:
    await served.answer(verbs.EXECUTION_CREATE, created)
    calls = [requester.call(verbs.EXECUTION_CREATE, ExecutionCreate(kind=kind)) for kind in ("a", "bad", "c")]
    good, bad, also_good = await asyncio.gather(*calls, return_exceptions=True)
    assert (good.execution_id, also_good.execution_id) == ("a", "c")
    assert isinstance(bad, errors.IdempotencyConflict)


async def test_a_refused_batch_fails_all_of_it(requester: Requester, served: Served) -> None:
    def away(_: object) -> object:
        raise errors.make("valkey_unavailable")

    await served.answer(verbs.EXECUTION_CREATE, away)
    calls = [requester.call(verbs.EXECUTION_CREATE, ExecutionCreate(kind=kind)) for kind in ("a", "b")]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(reply) for reply in replies] == [errors.ValkeyUnavailable] * 2


async def test_large_ticks_are_split(nats_url: str, requester: Requester, served: Served) -> None:
    await served.answer(verbs.EXECUTION_CREATE, created)
    watcher, seen = await messages_seen(nats_url, "penstock.v1.execution.create")
    many = [ExecutionCreate(kind=f"k{n}") for n in range(MAX_ITEMS + 1)]
    big = [ExecutionCreate(kind=f"big{n}", tags={"t": "x" * 200}) for n in range(3)]
    for request in big:
        request.raw_input = b'"' + b"x" * 3_500_000 + b'"'  # as base64 4.7 MB, of 8 MB per message
    replies = await asyncio.gather(*(requester.call(verbs.EXECUTION_CREATE, r) for r in many))
    assert len(replies) == MAX_ITEMS + 1
    await until(lambda: len(seen) >= 2)
    assert len(seen) == 2
    results = await asyncio.gather(
        *(requester.call(verbs.EXECUTION_CREATE, r) for r in big), return_exceptions=True
    )
    assert {type(result) for result in results} == {errors.PayloadTooLarge}  # the service's own limit
    await watcher.drain()
    assert len(seen) == 2 + 3


async def test_a_request_beyond_the_server_limit_is_not_sent(requester: Requester, served: Served) -> None:
    await served.answer(verbs.EXECUTION_CREATE, created)
    big = ExecutionCreate(kind="big", raw_input=b"x" * 9_000_000)
    small = requester.send(verbs.EXECUTION_CREATE, ExecutionCreate(kind="small"))
    with pytest.raises(errors.PayloadTooLarge) as caught:
        await requester.call(verbs.EXECUTION_CREATE, big)
    assert caught.value.detail["size"] > caught.value.detail["limit"]
    assert (await small).execution_id == "small"


async def test_verbs_that_park_are_never_batched(nats_url: str, requester: Requester, served: Served) -> None:
    await served.answer(verbs.EXECUTION_WAIT, lambda _: errors.make("execution_not_found"))
    watcher, seen = await messages_seen(nats_url, "penstock.v1.execution.wait")
    calls = [requester.call(verbs.EXECUTION_WAIT, ExecutionWait(execution_id=SOME_ID)) for _ in range(3)]
    await asyncio.gather(*calls, return_exceptions=True)
    await watcher.drain()
    assert len(seen) == 3


async def test_nobody_answers_says_what_to_start(requester: Requester) -> None:
    with pytest.raises(errors.Timeout, match="is penstock-scheduler running") as caught:
        await requester.call(verbs.FLOW_GET, FlowGet(flow_id=SOME_ID))
    assert caught.value.detail == {"subject": "penstock.v1.flow.get", "service": "scheduler"}
    assert caught.value.retryable


async def test_a_service_that_starts_late_is_waited_for(nats: Nats, served: Served) -> None:
    patient = Requester(nats, patience=5.0)
    call = asyncio.ensure_future(patient.call(verbs.EXECUTION_CREATE, ExecutionCreate(kind="early")))
    await asyncio.sleep(0)
    await served.answer(verbs.EXECUTION_CREATE, created)
    assert (await call).execution_id == "early"
    await patient.close()


async def test_no_answer_in_time_is_a_timeout(nats: Nats, requester: Requester) -> None:
    await nats.subscribe("penstock.v1.execution.get")  # a subscriber that never answers
    with pytest.raises(errors.Timeout, match=r"no answer within 0\.1 s"):
        await requester.call(verbs.EXECUTION_GET, ExecutionGet(execution_id=SOME_ID), timeout=0.1)
    assert not requester._inflight


async def test_a_canceled_call_does_not_disturb_its_batch(requester: Requester, served: Served) -> None:
    await served.answer(verbs.EXECUTION_CREATE, created)
    canceled = requester.send(verbs.EXECUTION_CREATE, ExecutionCreate(kind="canceled"))
    other = requester.send(verbs.EXECUTION_CREATE, ExecutionCreate(kind="other"))
    canceled.cancel()
    assert (await other).execution_id == "other"


async def test_a_malformed_reply_is_internal(nats: Nats, requester: Requester) -> None:
    async def nonsense(msg: object) -> None:
        await nats.publish(msg.reply, b'{"state": 7}')

    await nats.subscribe("penstock.v1.execution.get", cb=nonsense)
    with pytest.raises(errors.Internal, match="malformed"):
        await requester.call(verbs.EXECUTION_GET, ExecutionGet(execution_id=SOME_ID))


async def test_a_closed_connection_is_told_at_once(nats_url: str) -> None:
    client = await connect(nats_url, "short")
    requester = Requester(client)
    await client.close()
    with pytest.raises(errors.Timeout, match="could not be sent"):
        await requester.call(verbs.EXECUTION_GET, ExecutionGet(execution_id=SOME_ID))


async def test_closing_fails_what_is_under_way(nats: Nats) -> None:
    await nats.subscribe("penstock.v1.execution.get")
    requester = Requester(nats)
    call = requester.send(verbs.EXECUTION_GET, ExecutionGet(execution_id=SOME_ID))
    await asyncio.sleep(0)  # at the end of the tick the request is sent
    await requester.close()
    with pytest.raises(errors.Timeout, match="closed"):
        await call


@pytest.mark.parametrize("root", ["", "two words", "a.b", "a\r\nPING", "*"])
async def test_a_root_that_is_no_token_is_refused(nats: Nats, root: str) -> None:
    with pytest.raises(errors.InvalidError, match="root: must be a name"):
        Requester(nats, root)
