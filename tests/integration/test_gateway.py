"""The gateway: the contract over HTTP, with a real client, a real process and a real Penstock behind it."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from http_gateway import Gateway, gateway_of
from penstock.audit import stream as audit_stream
from penstock.secure.roles import PERMISSIONS
from penstock.verbs import VERBS
from penstock_gateway.tokens import USEFUL, digest_of
from proxies import Proxy
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence

HTML = {"Accept": "text/html"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def gateway(penstock: RunningPenstock, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_of(penstock, tmp_path) as gateway:
        yield gateway


async def test_each_verb_is_reached_by_the_roles_that_may_ask_for_it(gateway: Gateway) -> None:
    async def invalid(verb: str, role: str) -> tuple[str, bool, int, str]:
        answer = await gateway.ask(verb, {"no_such_field": 1}, role)
        assert answer.headers["content-type"] == "application/json"
        return verb, verb in PERMISSIONS[role].verbs, answer.status_code, answer.json()["error"]["code"]

    # For each verb a role that may ask for it, and one that may not.
    asked = {(verb, verb in PERMISSIONS[role].verbs): role for verb in VERBS for role in USEFUL}
    assert len(asked) == 2 * len(VERBS)
    found = await asyncio.gather(*(invalid(verb, role) for (verb, _), role in asked.items()))
    assert set(found) == {
        (verb, may, *((400, "invalid_request") if may else (403, "not_permitted"))) for verb, may in asked
    }


async def test_a_job_from_its_creation_to_its_result_with_curl_alone(gateway: Gateway) -> None:
    created = await gateway.ask("execution.create", {"kind": "mail.send", "input": {"n": 2**63, "é": []}})
    assert created.status_code == 200
    execution_id = created.json()["execution_id"]
    waiting = asyncio.create_task(gateway.ask("execution.wait", {"execution_id": execution_id}))
    body = {"worker_id": "w1", "max": 1, "start": True}
    [task] = (await gateway.ask("work.next", body, "worker")).json()["tasks"]
    assert task["input"] == {"n": 2**63, "é": []}
    ended = await gateway.ask("lease.complete", {**fence(task), "result": "sent"}, "worker")
    assert ended.status_code == 200
    record = (await waiting).json()
    assert (record["execution_id"], record["state"], record["result"]) == (execution_id, "completed", "sent")


async def test_a_batch_is_answered_item_by_item(gateway: Gateway) -> None:
    answer = await gateway.ask("execution.create", [{"kind": "a"}, {"kind": ""}, {"kind": "b"}])
    assert answer.status_code == 200
    first, second, third = answer.json()
    assert first["ok"]["execution_id"] and third["ok"]["execution_id"]
    assert second["error"]["code"] == "invalid_request"
    refused = await gateway.ask("lane.list", [{}])
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")


async def test_errors_have_their_numbers(gateway: Gateway) -> None:
    answer = await gateway.ask("execution.get", {"execution_id": NOWHERE})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "execution_not_found")
    post, auth = gateway.http.post, gateway.headers()
    for path, status in (("/v1/no/verb", 404), ("/v1/execution", 404), ("/v2/execution/get", 404)):
        answer = await post(path, json={}, headers=auth)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, "invalid_request"), path
    assert (await gateway.http.get("/v1/execution/get", headers=auth)).status_code == 405
    assert (await post("/v1/lane/list", data={"a": "b"}, headers=auth)).status_code == 415
    assert (await post("/v1/lane/list", headers=auth)).status_code == 200  # nothing is {}
    broken = {**auth, "Content-Type": "application/json"}
    for body in (b"{", b"\xff", b"[" * 100_000, b'{"a":1,}'):
        answer = await post("/v1/execution/create", content=body, headers=broken)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_nobody_without_a_token(gateway: Gateway) -> None:
    for header in (
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Basic {gateway.tokens['operator']}"},
    ):
        for answer in (
            await gateway.http.post("/v1/lane/list", headers=header),
            await gateway.http.post("/v1/no/verb", headers=header),
            await gateway.http.get("/v1/events", headers=header),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token")
            assert answer.headers["www-authenticate"] == "Bearer"
    digest = digest_of(gateway.tokens["operator"])  # what stands in the file opens nothing
    answer = await gateway.http.post("/v1/lane/list", headers={"Authorization": f"Bearer {digest}"})
    assert answer.status_code == 401
    assert not any(token in gateway.log for token in gateway.tokens.values())


async def test_request_id_and_trace_context_are_passed_on(
    gateway: Gateway, penstock: RunningPenstock
) -> None:
    seen = await penstock.nats.subscribe(VERBS["execution.create"].subject(penstock.root))
    await penstock.nats.flush()
    answer = await gateway.ask(
        "execution.create", {"kind": "a"}, traceparent=TRACE, **{"Penstock-Request-Id": "shop-7"}
    )
    assert answer.headers["penstock-request-id"] == "shop-7"
    message = await seen.next_msg(WAIT_S)
    assert message.headers == {"Penstock-Request-Id": "shop-7", "traceparent": TRACE}
    record = await penstock.get(answer.json()["execution_id"])
    assert record["traceparent"] == TRACE
    own = TRACE.replace("4bf9", "0000")
    [made] = (
        await gateway.ask("execution.create", [{"kind": "a", "traceparent": own}], traceparent=TRACE)
    ).json()
    assert (await penstock.get(made["ok"]["execution_id"]))["traceparent"] == own
    strange = await gateway.ask("lane.list", {}, **{"Penstock-Request-Id": "a b"})
    assert strange.headers["penstock-request-id"] not in ("a b", "")


async def test_events_with_filters_until_the_gateway_stops(
    gateway: Gateway, penstock: RunningPenstock
) -> None:
    async with gateway.events("?entity=execution&event=created", "viewer") as lines:
        ids = [await penstock.create() for _ in range(3)]
        await penstock.request("execution.cancel", {"execution_id": ids[0]})
        heard = []
        async for line in lines:
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                assert (event["entity"], event["event"]) == ("execution", "created")
                heard.append(event["id"])
            if len(heard) == 3:
                break
        assert heard == ids
        gateway.process.send_signal(signal.SIGTERM)
        rest = [line async for line in lines]
        assert rest[-3:] == ["event: end", 'data: {"reason":"draining"}', ""]
    assert await asyncio.wait_for(gateway.process.wait(), WAIT_S) == 0


async def test_events_ask_for_a_role_and_known_filters(gateway: Gateway) -> None:
    answer = await gateway.http.get("/v1/events", headers=gateway.headers("submitter"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_permitted")
    assert (await gateway.http.head("/v1/events", headers=gateway.headers())).status_code == 405
    for query in ("?kind=a", "?event=>", "?id=a.b", "?entity=", "?after=x", "?after=-1"):
        answer = await gateway.http.get(f"/v1/events{query}", headers=gateway.headers())
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request"), query


async def test_a_quiet_stream_has_heartbeats_and_a_revoked_token_ends_it(
    penstock: RunningPenstock, tmp_path: Path
) -> None:
    async with gateway_of(penstock, tmp_path, heartbeat_ms="20", streams="1") as gateway:
        async with gateway.events("", "auditor") as lines:
            assert (await anext(lines), (await anext(lines))[:4]) == (": nothing new", "id: ")
            more = await gateway.http.get("/v1/events", headers=gateway.headers("auditor"))
            assert (more.status_code, more.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            kept = [line for line in gateway.tokens_file.read_text().splitlines() if "auditor" not in line]
            gateway.tokens_file.write_text("\n".join(kept) + "\n")
            gateway.process.send_signal(signal.SIGHUP)
            assert 'data: {"reason":"revoked"}' in [line async for line in lines]
        answer = await gateway.http.get("/v1/events", headers=gateway.headers("auditor"))
        assert answer.status_code == 401


async def test_a_client_that_reads_nothing_makes_nobody_wait_and_misses_nothing(
    penstock: RunningPenstock, tmp_path: Path
) -> None:
    async with gateway_of(penstock, tmp_path) as gateway:
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        stuck = socket.create_connection((host, int(port)))
        token = gateway.tokens["operator"]
        stuck.sendall(f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        with stuck:
            assert b"200 OK" in await asyncio.to_thread(stuck.recv, 100)
            subject = f"{penstock.root}.audit.default.execution"
            large = b'{"event_id":"e","id":"x","at":1,"data":"%s"}' % (b"x" * 50_000)
            async with gateway.events("?event=small", "viewer") as lines:
                for _ in range(400):  # more than the sockets, and the gateway's memory, hold
                    await penstock.nats.publish(f"{subject}.large.x", large)
                await penstock.nats.publish(f"{subject}.small.x", b'{"event_id":"last","id":"x","at":1}')
                assert (await anext(lines)).startswith("id: ")
                assert await anext(lines) == 'data: {"event_id":"last","id":"x","at":1}'
            received = b""
            stuck.settimeout(WAIT_S)
            while b'"event_id":"last"' not in received[-1000:]:
                part = await asyncio.to_thread(stuck.recv, 1_000_000)
                assert part, "the gateway has closed the connection"
                received += part
            assert received.count(b"data: ") == 401


def parsed(block: list[str]) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in block if not line.startswith(":"))


async def blocks(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, str]]:
    """Yield the blocks of an event stream as a browser's EventSource reads them."""
    block: list[str] = []
    async for line in lines:
        if line:
            block.append(line)
        elif block:
            yield parsed(block)
            block = []


async def kept(penstock: RunningPenstock) -> list[tuple[int, bytes]]:
    name = f"{penstock.root.upper()}_AUDIT"
    state = (await penstock.nats.jetstream().stream_info(name)).state
    pages = audit_stream.pages(penstock.nats, name, state.first_seq, state.last_seq)
    return [each async for page in pages for each in page]


async def test_who_comes_back_gets_what_came_meanwhile_once_and_in_order(
    penstock: RunningPenstock, tmp_path: Path
) -> None:
    """The connection dies, the gateway dies, and work goes on all the time."""
    got: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def work() -> None:
        while not done.is_set():
            await penstock.request("execution.create", [{"kind": "a"}] * 20)
            await asyncio.sleep(0.05)

    async def follow(gateway: Gateway, most: int, until: str = "") -> None:
        """Take `most` events, or up to that of the execution `until`, and break the connection off."""
        last = {"Last-Event-ID": str(got[-1][0])} if got else {}
        async with gateway.events("?after=0", "auditor", **last) as lines:
            async for block in blocks(lines):
                if "data" in block:
                    got.append((int(block["id"]), block["data"]))
                    most -= 1
                if most == 0 or (until and until in got[-1][1]):
                    return

    working = asyncio.create_task(work())
    for _ in range(2):
        async with gateway_of(penstock, tmp_path) as gateway:
            for most in (1, 150, 40):
                await follow(gateway, most)
            gateway.process.kill()
            await gateway.process.wait()
        (tmp_path / "gateway.tokens").unlink()
        (tmp_path / "gateway.json").unlink()
    done.set()
    await working
    async with gateway_of(penstock, tmp_path) as gateway:
        ended = (await penstock.request("execution.create", {"kind": "last"}))["execution_id"]
        await follow(gateway, 1_000_000, ended)
    stored = await kept(penstock)
    assert got == [(seq, body.decode()) for seq, body in stored][: len(got)]
    assert len(got) > 382


async def test_a_filter_does_not_keep_a_client_behind(penstock: RunningPenstock, tmp_path: Path) -> None:
    """The id that a client remembers passes what its filter leaves out, so it need not be looked at again."""
    async with (
        gateway_of(penstock, tmp_path, heartbeat_ms="20") as gateway,
        gateway.events("?event=no_such") as lines,
    ):
        await penstock.create()
        read = blocks(lines)

        async def passed() -> bool:
            stored = await kept(penstock)
            return int((await anext(read))["id"]) == len(stored) > 0

        await penstock.until(passed, bool, "an id behind the event")


async def test_what_is_kept_no_more_or_was_never_there_is_told(
    gateway: Gateway, penstock: RunningPenstock
) -> None:
    await penstock.create()
    name = f"{penstock.root.upper()}_AUDIT"
    js = penstock.nats.jetstream()
    config = (await js.stream_info(name)).config

    async def wait_for(count: int) -> None:
        async def last() -> int:
            return (await js.stream_info(name)).state.last_seq

        await penstock.until(last, lambda last: last >= count, "the relay")

    for n in range(1, 8):
        await penstock.create()
        await wait_for(n)
    config.max_msgs = 3
    await js.update_stream(config)
    state = (await js.stream_info(name)).state
    told = {"first": state.first_seq, "last": state.last_seq}
    for header, query in (({"Last-Event-ID": "1"}, ""), ({}, "?after=1"), ({}, "?after=9999")):
        answer = await gateway.http.get(f"/v1/events{query}", headers={**gateway.headers(), **header})
        assert answer.status_code == 410, answer.text
        assert answer.json()["error"]["detail"] == told
    async with gateway.events(f"?after={state.first_seq - 1}") as lines:
        read = blocks(lines)
        found = [(await anext(read))["id"] for _ in range(3)]
    assert found == [str(seq) for seq in range(state.first_seq, state.last_seq + 1)]


async def test_only_an_auditor_goes_far_back(gateway: Gateway, penstock: RunningPenstock) -> None:
    old = b'{"event_id":"e","id":"x","at":%d}' % ((time.time() - 4000) * 1000)
    await penstock.nats.publish(f"{penstock.root}.audit.default.execution.created.x", old)
    await penstock.create()
    async with gateway.events("?after=0", "auditor") as lines:
        assert (await anext(blocks(lines)))["data"] == old.decode()
    answer = await gateway.http.get("/v1/events?after=0", headers=gateway.headers("viewer"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_permitted")
    async with gateway.events("?after=1", "viewer") as lines:
        assert (await anext(blocks(lines)))["id"] == "2"


async def test_nats_is_lost_and_back(penstock: RunningPenstock, tmp_path: Path) -> None:
    async with Proxy.before(penstock.url) as proxy, gateway_of(penstock, tmp_path, proxy.url) as gateway:

        async def ready() -> int:
            return (await gateway.http.get("/readyz")).status_code

        async with gateway.events("?event=created") as lines:
            proxy.sever()
            await penstock.until(ready, lambda status: status == 503, "the loss")
            assert (await gateway.http.get("/healthz")).status_code == 200
            missed = await penstock.create()
            proxy.cut = False
            await penstock.until(ready, lambda status: status == 200, "the return")
            read = blocks(lines)
            assert json.loads((await anext(read))["data"])["id"] == missed  # though nothing follows it
            after = await penstock.create()
            assert json.loads((await anext(read))["data"])["id"] == after
        assert (await gateway.ask("execution.get", {"execution_id": missed})).status_code == 200


async def approval(gateway: Gateway, penstock: RunningPenstock) -> tuple[str, str]:
    """Return an execution that waits for the signal `approved`, and the path of the link that sends it."""
    execution_id = await penstock.create()
    task = await penstock.begin()
    body = {**fence(task), "condition": {"name": "approved"}, "waitpoint_key": "k"}
    suspended = (await gateway.ask("lease.suspend", body, "worker")).json()
    return execution_id, f"/v1/signals/{suspended['token']}/approved"


async def test_a_link_in_a_mail(gateway: Gateway, penstock: RunningPenstock) -> None:
    execution_id, link = await approval(gateway, penstock)
    for _ in range(2):  # a mail scanner follows it
        page = await gateway.http.get(link)
        assert page.status_code == 200 and '<form method="post">' in page.text
        assert link.split("/")[3] not in page.text
    assert (await penstock.get(execution_id))["state"] == "suspended"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    clicked = await gateway.http.post(f"{link}?source=ada", data={"comment": "fine ü"}, headers=HTML)
    assert clicked.status_code == 200 and "Thank you" in clicked.text
    await penstock.reaches(execution_id, "ready")
    [task] = await penstock.take()
    [signal_] = (await gateway.ask("signal.resumed_by", fence(task), "worker")).json()["items"]
    assert (signal_["name"], signal_["source"], signal_["payload"]) == (
        "approved",
        "ada",
        {"comment": "fine ü"},
    )
    again = await gateway.http.post(f"{link}?source=ada", headers=HTML)
    assert again.status_code == 200 and "confirmed before" in again.text
    assert link.split("/")[3] not in gateway.log


async def test_a_link_clicked_twice_counts_once(gateway: Gateway, penstock: RunningPenstock) -> None:
    task = await _begun(penstock)
    made = (await gateway.ask("waitpoint.create", {**fence(task), "waitpoint_key": "k"}, "worker")).json()
    link = f"/v1/signals/{made['token']}/approved"
    answers = [await gateway.http.post(link, json={"n": [1]}) for _ in range(2)]
    assert [answer.json()["effect"] for answer in answers] == ["buffered", "duplicate"]
    other = await gateway.http.post(f"{link}?source=bob", json=1)  # somebody else with the same link
    assert other.json()["effect"] == "buffered"
    assert "confirmed before" in (await gateway.http.post(link, headers=HTML)).text


async def test_a_link_that_is_not_valid(gateway: Gateway, penstock: RunningPenstock) -> None:
    task = await _begun(penstock)
    made = (await gateway.ask("waitpoint.create", {**fence(task), "waitpoint_key": "k"}, "worker")).json()
    forged = f"/v1/signals/{made['token'][:-4]}AAAA/approved"
    for link, options, status in (
        (forged, {}, 401),
        (forged, {"headers": HTML}, 401),
        (f"/v1/signals/{made['token']}/a%20b", {}, 400),
        (f"/v1/signals/{made['token']}/<script>", {"headers": HTML}, 400),
        (f"/v1/signals/{made['token']}/a?x=1", {}, 400),
        (
            f"/v1/signals/{made['token']}/a",
            {"content": b"1,2", "headers": {"Content-Type": "application/json"}},
            400,
        ),
        (f"/v1/signals/{made['token']}/a", {"content": b"1", "headers": {"Content-Type": "text/xml"}}, 415),
        (f"/v1/signals/{made['token']}/a", {"content": b" " * 70_000}, 413),
    ):
        answer = await gateway.http.post(link, **options)
        assert answer.status_code == status, (link, answer.text)
        page = "headers" in options and options["headers"] == HTML
        assert answer.headers["content-type"].startswith("text/html" if page else "application/json")
        assert "<script>" not in answer.text
    shown = await penstock.request("waitpoint.get", {"waitpoint_id": made["waitpoint_id"]})
    assert (shown["status"], shown["received"]) == ("pending", {})


async def test_limits_on_size_and_rate(penstock: RunningPenstock, tmp_path: Path) -> None:
    async with gateway_of(penstock, tmp_path, max_bytes="2048", rate="0.01", link_rate="0.01") as gateway:
        large = await gateway.ask("execution.create", {"kind": "a", "input": "x" * 3000})
        assert (large.status_code, large.json()["error"]["detail"]) == (413, {"limit": 2048})

        async def pieces() -> AsyncIterator[bytes]:  # without a Content-Length
            for _ in range(100):
                yield b" " * 1000

        headers = {**gateway.headers("viewer"), "Content-Type": "application/json"}
        chunked = await gateway.http.post("/v1/lane/list", content=pieces(), headers=headers)
        assert chunked.status_code == 413
        limited = await gateway.ask("lane.list", {})
        assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(limited.headers["retry-after"]) > 50
        assert (await gateway.ask("lane.list", {}, "submitter")).status_code == 403  # a bucket of its own
        answers = [await gateway.http.get("/v1/signals/x/y") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]


async def test_a_tokens_file_that_changes(gateway: Gateway, penstock: RunningPenstock) -> None:
    async def status() -> int:
        return (await gateway.ask("lane.list", {}, "viewer")).status_code

    whole = gateway.tokens_file.read_text()
    gateway.tokens_file.write_text(whole + "nonsense\n")
    await penstock.until(
        lambda: asyncio.to_thread(lambda: gateway.log), lambda log: "line 8" in log, "a complaint"
    )
    assert await status() == 200  # what was read before holds
    gateway.tokens_file.write_text(whole.replace("viewer the-viewer", "auditor the-viewer"))
    await penstock.until(status, lambda status: status == 403, "the new role")
    gateway.tokens_file.chmod(0o644)
    gateway.tokens_file.write_text(whole)
    await penstock.until(
        lambda: asyncio.to_thread(lambda: gateway.log), lambda log: "open to others" in log, "a complaint"
    )
    assert await status() == 403
    gateway.tokens_file.chmod(0o600)
    gateway.process.send_signal(signal.SIGHUP)
    await penstock.until(status, lambda status: status == 200, "the old role")


async def test_a_service_that_is_away(gateway: Gateway, penstock: RunningPenstock) -> None:
    await penstock.running["cancel-reconciler"].stop()
    answer = await gateway.ask("cancel.backlog", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert "penstock-cancel-reconciler" in answer.json()["error"]["message"]


async def test_a_request_that_runs_is_answered_before_the_end(
    gateway: Gateway, penstock: RunningPenstock
) -> None:
    ready = await gateway.http.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "missing": []})
    assert (await gateway.http.get("/healthz")).text == "alive\n"
    execution_id = await penstock.create()
    seen = await penstock.nats.subscribe(VERBS["execution.wait"].subject(penstock.root))
    await penstock.nats.flush()
    waiting = asyncio.create_task(gateway.ask("execution.wait", {"execution_id": execution_id}))
    await seen.next_msg(WAIT_S)
    gateway.process.send_signal(signal.SIGTERM)
    await penstock.until(
        lambda: asyncio.to_thread(lambda: gateway.log), lambda log: "stopping" in log, "the signal"
    )
    await penstock.request("execution.cancel", {"execution_id": execution_id})
    assert (await waiting).status_code == 200
    assert await asyncio.wait_for(gateway.process.wait(), WAIT_S) == 0


async def test_the_description_is_valid_and_true(gateway: Gateway) -> None:
    described = (await gateway.http.get("/v1/openapi.json")).json()
    await asyncio.to_thread(validate, described)
    assert {f"/v1/{name.replace('.', '/')}" for name in VERBS} <= described["paths"].keys()
    created = (await gateway.ask("execution.create", {"kind": "a", "tags": {"k": "v"}})).json()
    made = {"execution_id": created["execution_id"]}
    for verb, body in (
        ("execution.create", {"kind": "a"}),
        ("execution.create", [{"kind": "a"}, {"kind": ""}]),
        ("execution.get", made),
        ("execution.get", {"execution_id": NOWHERE}),
        ("execution.list", {}),
        ("execution.explain", made),
        ("flow.create", {}),
        ("lane.list", {}),
    ):
        answer = await gateway.ask(verb, body)
        responses = described["paths"][f"/v1/{verb.replace('.', '/')}"]["post"]["responses"]
        failed = described["components"]["responses"]["Failed"]
        response = responses["200"] if answer.status_code == 200 else failed
        shape = response["content"]["application/json"]["schema"]
        schema = {**shape, "components": described["components"]}
        wrong = [error.message for error in OAS31Validator(schema).iter_errors(answer.json())]
        assert not wrong, (verb, answer.text, wrong)


async def test_the_subjects_are_described_under_the_root(penstock: RunningPenstock, gateway: Gateway) -> None:
    described = (await gateway.http.get("/v1/asyncapi.json")).json()
    address = described["channels"]["execution_create"]["address"]
    assert (described["asyncapi"], address) == ("3.0.0", f"{penstock.root}.v1.execution.create")


async def _begun(penstock: RunningPenstock) -> dict[str, object]:
    await penstock.create()
    return await penstock.begin()
