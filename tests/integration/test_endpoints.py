"""Verbs served over NATS: single requests, batches, errors, draining, discovery."""

import asyncio
import json

import nats.js.api
import pytest
from nats.aio.client import Client
from nats.micro.service import ServiceInfo

from penstock import errors, verbs
from penstock.bus import connection
from penstock.bus.calls import Call, parked
from penstock.bus.request_id import HEADER, request_id
from served import FENCE, ID, ask, echo, serving, until


async def test_single_batch_and_invalid(client: Client, root: str):
    calls: list[Call] = []
    counted: list[tuple] = []

    async def handler(call: Call) -> list:
        calls.append(call)
        return await echo(call)

    async with serving(
        client, root, {verbs.LEASE_START: handler}, observer=lambda *what: counted.append(what)
    ):
        assert (await ask(client, root, verbs.LEASE_START, FENCE))[0] == {"state": "l"}
        body, headers = await ask(client, root, verbs.LEASE_START, {**FENCE, "nope": 1})
        assert body["error"]["detail"] == {"field": "nope"}
        assert headers["Nats-Service-Error-Code"] == "400"
        body, headers = await ask(client, root, verbs.LEASE_START, [FENCE, {}, {**FENCE, "lease_id": "m"}])
        assert [list(item) for item in body] == [["ok"], ["error"], ["ok"]]
        assert body[2] == {"ok": {"state": "m"}}
        assert not headers
        assert (await ask(client, root, verbs.LEASE_START, b"[]"))[0] == []
        assert (await ask(client, root, verbs.LEASE_START, b"nonsense"))[1][
            "Nats-Service-Error-Code"
        ] == "400"
    assert [(len(call.items), call.single, bool(call.reply_to)) for call in calls] == [
        (1, True, True),
        (2, False, True),
    ]
    wrong = ["invalid_request"]
    assert [(n, list(codes)) for _, n, codes, _ in counted] == [
        (1, []), (1, wrong), (3, wrong), (0, []), (1, wrong),
    ]  # fmt: skip


async def test_singles_of_one_tick_are_merged(client: Client, root: str):
    sizes: list[int] = []

    async def handler(call: Call) -> list:
        sizes.append(len(call.items))
        return await echo(call)

    async with serving(client, root, {verbs.LEASE_START: handler}):
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(ask(client, root, verbs.LEASE_START, {**FENCE, "lease_id": f"l{n}"}))
                for n in range(200)
            ]
        assert [task.result()[0] for task in asked] == [{"state": f"l{n}"} for n in range(200)]
    assert sum(sizes) == 200
    assert len(sizes) < 50


async def test_a_slow_handler_stands_in_nobodys_way(client: Client, root: str):
    release = asyncio.Event()

    async def waits(call: Call) -> list:
        if call.items[0].wait_ms == 0:
            return [{"state": "quick"}] * len(call.items)
        await release.wait()
        return [{"state": "slow"}] * len(call.items)

    async with serving(client, root, {verbs.EXECUTION_WAIT: parked(waits)}):
        slow = [
            asyncio.create_task(ask(client, root, verbs.EXECUTION_WAIT, {"execution_id": ID}))
            for _ in range(3)
        ]
        quick = {"execution_id": ID, "wait_ms": 0}
        assert (await ask(client, root, verbs.EXECUTION_WAIT, quick))[0] == {"state": "quick"}
        release.set()
        assert [(await task)[0] for task in slow] == [{"state": "slow"}] * 3


async def test_errors_of_a_handler(client: Client, root: str, caplog: pytest.LogCaptureFixture):
    async def handler(call: Call) -> list:
        match call.items[0].lease_id:
            case "typed":
                raise errors.make("valkey_unavailable")
            case "bug":
                raise RuntimeError("the secret is swordfish")
            case "short":
                return []
            case "strange":
                return [object()]
        return [errors.make("stale_lease")]

    async with serving(client, root, {verbs.LEASE_START: handler}):
        for lease, code in [
            ("typed", "valkey_unavailable"), ("bug", "internal"), ("short", "internal"),
            ("strange", "internal"), ("x", "stale_lease"),
        ]:  # fmt: skip
            body, headers = await ask(client, root, verbs.LEASE_START, {**FENCE, "lease_id": lease})
            assert body["error"]["code"] == code
            assert headers["Nats-Service-Error-Code"]
            assert "swordfish" not in json.dumps(body)
            assert "Traceback" not in json.dumps(body)
    assert "swordfish" in caplog.text  # the log has the traceback


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"penstock-request-id": "order-17"}, "order-17"),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"Penstock-Request-Id": "order-17", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, "order-17"),
        ({"Penstock-Request-Id": "x" * 129}, "_INBOX."),
        ({"traceparent": "nonsense"}, "_INBOX."),
        (None, "_INBOX."),
    ],
)
async def test_a_handler_and_its_tasks_know_the_id_of_their_request(
    client: Client, root: str, headers: dict[str, str] | None, expected: str
):
    async def id_of_task() -> str | None:
        return request_id()

    async def handler(call: Call) -> list:
        assert await asyncio.create_task(id_of_task()) == request_id()
        return [{"state": request_id()}]

    async with serving(client, root, {verbs.LEASE_START: handler}):
        subject, body = verbs.LEASE_START.subject(root), json.dumps(FENCE).encode()
        reply = await client.request(subject, body, timeout=60, headers=headers)
    found = json.loads(reply.data)["state"]
    assert found.startswith(expected) if expected == "_INBOX." else found == expected
    assert request_id() is None


async def test_a_merged_call_names_its_first_requests(client: Client, root: str):
    found: list[str] = []

    async def handler(call: Call) -> list:
        found.append(request_id() or "")
        return await echo(call)

    async with serving(client, root, {verbs.LEASE_START: handler}):
        subject, body = verbs.LEASE_START.subject(root), json.dumps(FENCE).encode()
        asking = [client.request(subject, body, timeout=60, headers={HEADER: f"r{n}"}) for n in range(50)]
        await asyncio.gather(*asking)
    handled = 0  # how many are merged depends on how nats-server reads and sends them
    for text in found:
        ids = text.split(",")
        more = int(ids.pop().split()[1]) if ids[-1].startswith("and ") else 0
        assert ids == [f"r{n}" for n in range(handled, handled + len(ids))]
        assert len(ids) == 8 if more else len(ids) <= 8
        handled += len(ids) + more
    assert handled == 50 and any("and " in text for text in found)


async def test_none_leaves_the_answer_to_somebody_else(client: Client, root: str):
    async def handler(call: Call) -> None:
        await client.publish(call.reply_to, b'{"tasks":[]}')

    async with serving(client, root, {verbs.WORK_NEXT: handler}):
        assert (await ask(client, root, verbs.WORK_NEXT, {"worker_id": "w"}))[0] == {"tasks": []}


async def test_a_request_without_a_reply_subject(client: Client, root: str):
    seen: list[str] = []

    async def handler(call: Call) -> list:
        seen.extend(item.lease_id for item in call.items)
        return await echo(call)

    async with serving(client, root, {verbs.LEASE_START: handler}):
        await client.publish(verbs.LEASE_START.subject(root), json.dumps(FENCE).encode())
        await client.publish(verbs.LEASE_START.subject(root), b"nonsense")
        assert (await ask(client, root, verbs.LEASE_START, {**FENCE, "lease_id": "m"}))[0] == {"state": "m"}
    assert seen == ["l", "m"]


async def test_a_payload_over_the_limit_and_a_reply_over_nats(client: Client, root: str):
    async def handler(call: Call) -> list:
        return [{"items": [{"input": '"' + "x" * 1_000_000 + '"'}] * call.items[0].limit, "cursor": None}]

    async def created(call: Call) -> list:
        return [{"execution_id": ID, "state": "ready"}]

    handlers = {verbs.EXECUTION_LIST: handler, verbs.EXECUTION_CREATE: created}
    async with serving(client, root, handlers, max_payload_bytes=1000):
        body, headers = await ask(client, root, verbs.EXECUTION_LIST, {"limit": 10})
        assert body["error"]["code"] == "payload_too_large"
        assert headers["Nats-Service-Error-Code"] == "413"
        assert len((await ask(client, root, verbs.EXECUTION_LIST, {"limit": 5}))[0]["items"]) == 5
        body, _ = await ask(client, root, verbs.EXECUTION_CREATE, {"kind": "a", "input": "x" * 1000})
        assert body["error"]["detail"] == {"field": "input", "limit": 1000, "size": 1002}


async def test_drain_answers_what_was_taken(client: Client, url: str, root: str):
    async def handler(call: Call) -> list:
        await asyncio.sleep(0.05)
        return await echo(call)

    caller = await connection.connect(url, "caller")
    async with serving(client, root, {verbs.LEASE_START: handler}) as endpoints:
        asked = [asyncio.create_task(ask(caller, root, verbs.LEASE_START, FENCE)) for _ in range(500)]
        await until(lambda: endpoints.in_flight > 0)
        await endpoints.drain()
        assert endpoints.in_flight == 0
        answers = await asyncio.gather(*asked, return_exceptions=True)
        # Each request is answered, or refused at once because there is no responder; none is left waiting.
        assert {type(answer) for answer in answers} <= {tuple, nats.errors.NoRespondersError}
        with pytest.raises(nats.errors.NoRespondersError):
            await ask(caller, root, verbs.LEASE_START, FENCE)
    await caller.close()


async def test_drain_cancels_what_does_not_end(client: Client, root: str):
    async def handler(call: Call) -> list:
        await asyncio.Event().wait()
        return []

    async with serving(client, root, {verbs.EXECUTION_WAIT: parked(handler)}) as endpoints:
        asked = asyncio.create_task(ask(client, root, verbs.EXECUTION_WAIT, {"execution_id": ID}))
        await until(lambda: endpoints.in_flight == 1)
        await endpoints.drain(0.05)
        assert (await asked)[0]["error"]["code"] == "timeout"


async def test_discovery(client: Client, root: str):
    handlers = {verbs.LEASE_START: echo, verbs.WORK_NEXT: echo}
    async with serving(client, root, handlers, instance="i-1", version="1.2.3"):
        msg = await client.request(f"$SRV.INFO.{root}-test", timeout=2)
        info = ServiceInfo.from_dict(json.loads(msg.data))
        assert (info.name, info.id, info.version) == (f"{root}-test", "i-1", "1.2.3")
        start = info.endpoints[0]
        assert (start.name, start.subject) == ("lease_start", f"{root}.v1.lease.start")
        assert start.metadata["batch"] == "true"
        assert info.endpoints[1].metadata["batch"] == "false"
        schema = json.loads(start.metadata["request_schema"])
        assert "lease_epoch" in schema["$defs"]["LeaseStart"]["required"]
        assert "StateReply" in start.metadata["reply_schema"]

        await ask(client, root, verbs.LEASE_START, FENCE)
        await ask(client, root, verbs.LEASE_START, {})
        stats = json.loads((await client.request(f"$SRV.STATS.{root}-test.i-1", timeout=2)).data)
        assert stats["endpoints"][0]["num_requests"] == 2
        assert stats["endpoints"][0]["num_errors"] == 1
        assert stats["endpoints"][0]["last_error"] == "invalid_request"
        assert json.loads((await client.request(f"$SRV.PING.{root}-test", timeout=2)).data)["id"] == "i-1"
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request(f"$SRV.PING.{root}-test", timeout=2)
