"""execution.execute: create an execution and wait for its end, in one request."""

import asyncio
from typing import Any

import msgspec
import pytest

from lifecycles import names, outcome, working
from penstock import Client, ExecutionCanceled, ExecutionFailed
from penstock.codecs import AesGcm
from running_penstock import WAIT_S, RunningPenstock

BODY: dict[str, Any] = {"kind": "t", "input": [1], "wait_ms": 60_000}


def executing(penstock: RunningPenstock, **more: Any) -> "asyncio.Task[dict[str, Any]]":
    return asyncio.create_task(penstock.request("execution.execute", BODY | more))


async def test_the_record_comes_at_the_end(penstock: RunningPenstock) -> None:
    call = executing(penstock)
    task = await penstock.begin(wait_ms=20_000)
    assert task["input"] == [1]
    assert not call.done()
    await outcome(penstock, "complete", task, result={"a": 2})
    record = await call
    assert record == await penstock.get(task["execution_id"])
    assert (record["state"], record["result"]) == ("completed", {"a": 2})
    assert await names(penstock, task["execution_id"]) == ["created", "started", "completed"]


@pytest.mark.parametrize("verb", ["fail", "cancel"])
async def test_other_ends(penstock: RunningPenstock, verb: str) -> None:
    call = executing(penstock)
    task = await penstock.begin(wait_ms=20_000)
    if verb == "fail":
        await outcome(penstock, "fail", task, reason="r")
    else:
        await penstock.request("execution.cancel", {"execution_id": task["execution_id"], "grace_ms": 0})
    assert (await call)["state"] == {"fail": "failed", "cancel": "canceled"}[verb]


async def test_after_its_time_the_record_is_as_it_is(penstock: RunningPenstock) -> None:
    for wait_ms in (0, 50):
        assert (await executing(penstock, wait_ms=wait_ms))["state"] == "ready"


async def test_a_repeat_waits_for_the_same_execution(penstock: RunningPenstock) -> None:
    """Keys are those of execution.create, also with a unique key and of a child: there they are kept elsewhere."""
    parent = await penstock.create(kind="parent")
    for number, more in enumerate(({}, {"unique_key": "u"}, {"parent_id": parent})):
        keyed = more | {"idempotency_key": f"k{number}"}
        created = await penstock.request("execution.create", {"kind": "t", "input": [1], **keyed})
        calls = [executing(penstock, **keyed) for _ in range(2)]
        tasks = await penstock.take(2, kinds=["t"], start=True, wait_ms=20_000)
        assert [task["execution_id"] for task in tasks] == [created["execution_id"]]
        await outcome(penstock, "complete", tasks[0])
        calls.append(executing(penstock, **keyed))  # it has ended already
        assert {record["execution_id"] for record in await asyncio.gather(*calls)} == {
            created["execution_id"]
        }
    error = await penstock.refused("execution.execute", BODY | {"idempotency_key": "k0", "input": [2]})
    assert error.code == "idempotency_conflict"


async def test_a_keyed_child_that_is_new(penstock: RunningPenstock) -> None:
    parent = await penstock.create(kind="parent")
    call = executing(penstock, parent_id=parent, idempotency_key="new")
    task = await penstock.begin(kinds=["t"], wait_ms=20_000)
    await outcome(penstock, "complete", task)
    assert (await call)["parent_id"] == parent


@pytest.mark.parametrize("verb", ["execute", "wait"])
async def test_nobody_need_expect_an_answer(penstock: RunningPenstock, verb: str) -> None:
    """A request may be published without a reply subject. Then nothing is sent, and no connection suffers from that."""
    body = BODY if verb == "execute" else {"execution_id": await penstock.create(kind="t"), "wait_ms": 60_000}
    lost = [service.context.nats.stats["errors_received"] for service in penstock.running.values()]
    await penstock.nats.publish(f"{penstock.root}.v1.execution.{verb}", msgspec.json.encode(body))
    await penstock.request("work.next", {"worker_id": "w", "lanes": ["other"], "wait_ms": 0})
    await outcome(penstock, "complete", await penstock.begin(wait_ms=20_000))
    for service in penstock.running.values():
        await service.context.nats.flush()
    assert [service.context.nats.stats["errors_received"] for service in penstock.running.values()] == lost


async def test_a_large_result(penstock: RunningPenstock) -> None:
    call = executing(penstock)
    task = await penstock.begin(wait_ms=20_000)
    await outcome(penstock, "complete", task, result="x" * 400_000)
    assert len((await call)["result"]) == 400_000


async def test_refusals(penstock: RunningPenstock) -> None:
    await penstock.create(lane="drained")
    await penstock.request("lane.drain", {"lane": "drained"})
    for wrong, code in (
        ({"kind": ""}, "invalid_request"),
        ({"wait_ms": 60_001}, "invalid_request"),
        ({"quota_id": "0-0190c42a-0000-7000-8000-000000000000"}, "quota_not_found"),
        ({"lane": "drained"}, "execution_not_eligible"),
    ):
        assert (await penstock.refused("execution.execute", BODY | wrong)).code == code


async def test_an_array_is_answered_when_all_have_ended(penstock: RunningPenstock) -> None:
    bodies = [BODY, BODY | {"kind": ""}, BODY]
    call = asyncio.create_task(penstock.request("execution.execute", bodies))
    for _ in range(2):
        await outcome(penstock, "complete", await penstock.begin(wait_ms=20_000))
    first, wrong, last = await call
    assert first["ok"]["state"] == last["ok"]["state"] == "completed"
    assert wrong["error"]["code"] == "invalid_request"


async def test_the_client(penstock: RunningPenstock) -> None:
    async def double(x: int) -> int:
        return 2 * x

    async def refuse() -> None:
        raise RuntimeError("no")

    async def slow() -> str:
        await asyncio.sleep(1.5)  # longer than the client's first request waits
        return "late"

    async with working(penstock, double=double, refuse=refuse, slow=slow) as client:
        assert await client.execute("double", {"x": 4}, type=int) == 8
        with pytest.raises(ExecutionFailed, match="no"):
            await client.execute("refuse")
        assert await client.execute("slow", timeout=WAIT_S) == "late"
        with pytest.raises(TimeoutError, match=r"slow .* is (ready|running) after"):
            await client.execute("slow", timeout=0.1, idempotency_key="k")
        assert await client.execute("slow", idempotency_key="k") == "late"


async def test_a_canceled_one_raises(penstock: RunningPenstock) -> None:
    async with await Client.connect(penstock.settings.nats_url, root=penstock.root) as client:
        call = asyncio.create_task(client.execute("nobody"))
        listed = await penstock.until(
            lambda: penstock.request("execution.list", {"kind": "nobody"}), lambda page: page["items"]
        )
        await client.cancel(listed["items"][0]["execution_id"])
        with pytest.raises(ExecutionCanceled):
            await call


async def test_with_a_codec(penstock: RunningPenstock) -> None:
    codec = AesGcm("k", {"k": b"k" * 32})
    url, root = penstock.settings.nats_url, penstock.root
    async with await Client.connect(url, root=root, codec=codec) as client:
        call = asyncio.create_task(client.execute("coded", {"secret": 1}, timeout=WAIT_S))
        task = await penstock.begin(kinds=["coded"], wait_ms=20_000)
        assert "secret" not in str(task["input"])
        await outcome(penstock, "complete", task, result=3)
        assert await call == 3
