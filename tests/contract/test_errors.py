"""Errors on the wire, and the replies of service discovery, tested over NATS only."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from penstock.errors import TABLE
from penstock.messages.common import is_payload
from penstock.verbs import MAX_BATCH, SERVICES, VERBS, Verb
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence
from servers import ValkeyServer

CONTENTION = {
    "use_claim_resumed_execution", "not_a_resumed_execution", "execution_not_leaseable", "lease_conflict",
    "invalid_claim_grant", "claim_grant_expired", "no_eligible_execution", "waitpoint_not_found",
    "waitpoint_pending_use_buffer", "stale_graph_revision", "execution_not_active", "execution_not_eligible",
    "execution_not_in_eligible_set", "execution_not_reclaimable", "no_active_lease", "rate_limit_exceeded",
    "concurrency_limit_exceeded", "retry_exhausted",
}  # fmt: skip

NO_FIELD_TAKES: list[Any] = [[[]], {"": [[]]}, "x" * 10_000, 10**30, -(10**30), {"a": 1, "b": {"c": [None]}}]
NO_LIMIT: list[Any] = [0, -1, 1001, 1.5, 2**63, "1", None]
NO_CURSOR: list[Any] = ["", "a b", "ÿ(*[", "*", "a\n", "x" * 300, 7, []]
MANY = [f"c{n}" for n in range(10_000)]


def fields_of(verb: Verb[Any, Any]) -> set[str]:
    """Return the fields that have a type; a payload field may hold any value."""
    return {field.encode_name for field in msgspec.structs.fields(verb.request) if not is_payload(field)}


def rubbish(verb: Verb[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each typed field with each value that the field must refuse."""
    for name in sorted(fields_of(verb)):
        values = {"limit": NO_LIMIT, "cursor": NO_CURSOR}.get(name, [])
        for value in NO_FIELD_TAKES + values:
            yield name, value


async def errors_to(penstock: RunningPenstock, name: str, bodies: list[Any]) -> list[dict[str, Any]]:
    """Return the error of each body. Send the bodies as one batch if the verb takes batches."""
    if VERBS[name].batch:
        answers = msgspec.json.decode((await penstock.ask(name, msgspec.json.encode(bodies))).data)
    else:
        answers = [
            msgspec.json.decode((await penstock.ask(name, msgspec.json.encode(body))).data) for body in bodies
        ]
    assert all("error" in answer for answer in answers), (name, bodies, answers)
    return [answer["error"] for answer in answers]


class TestWire:
    async def test_a_single_failure_has_headers_and_a_body(self, penstock: RunningPenstock) -> None:
        reply = await penstock.ask("execution.get", msgspec.json.encode({"execution_id": NOWHERE}))
        assert reply.headers["Nats-Service-Error-Code"] == "404"
        assert reply.headers["Nats-Service-Error"]
        assert msgspec.json.decode(reply.data) == {
            "error": {
                "code": "execution_not_found",
                "class": "not_found",
                "message": "no such execution",
                "retryable": False,
                "detail": {"execution_id": NOWHERE},
            }
        }

    async def test_a_batch_has_none(self, penstock: RunningPenstock) -> None:
        reply = await penstock.ask("execution.get", msgspec.json.encode([{"execution_id": NOWHERE}]))
        assert not reply.headers
        [item] = msgspec.json.decode(reply.data)
        assert item["error"]["code"] == "execution_not_found"

    async def test_a_good_answer_has_none(self, penstock: RunningPenstock) -> None:
        assert not (await penstock.ask("execution.list", b"")).headers

    async def test_a_header_holds_one_line(self, penstock: RunningPenstock) -> None:
        body = msgspec.json.encode({"kind": "t", "colour\r\nX-Evil": "1"})
        reply = await penstock.ask("execution.create", body)
        assert reply.headers["Nats-Service-Error-Code"] == "400"
        assert set(reply.headers) == {"Nats-Service-Error-Code", "Nats-Service-Error"}
        assert "\n" not in reply.headers["Nats-Service-Error"]

    async def test_unknown_fields_are_refused_by_every_verb(self, penstock: RunningPenstock) -> None:
        for verb in VERBS:
            error = await penstock.refused(verb, {"no_such_field": 1})
            assert (error.code, error.error_class, error.number) == ("invalid_request", "invalid", 400), verb

    async def test_nonsense_is_refused_by_every_verb(self, penstock: RunningPenstock) -> None:
        for verb in VERBS:
            for body in (b"{]", b"\x00", b'"x"', b"-", b"\xf0\x28\x8c\x28"):
                reply = await penstock.ask(verb, body)
                error = msgspec.json.decode(reply.data)["error"]
                assert error["code"] == "invalid_request", (verb, body)
                assert "Traceback" not in error["message"] and "/" not in error["message"]

    async def test_batches_are_taken_where_the_contract_says_so(self, penstock: RunningPenstock) -> None:
        for name, verb in VERBS.items():
            reply = msgspec.json.decode((await penstock.ask(name, b"[7, 8]")).data)
            if verb.batch:
                assert [item["error"]["code"] for item in reply] == ["invalid_request"] * 2, name
            else:
                assert reply["error"]["code"] == "invalid_request", name
            resource = name.partition(".")[0]
            if resource in ("execution", "lease", "signal") or name == "flow.observe":
                assert verb.batch, f"{name} must take batches"


class TestRubbish:
    async def test_every_field_of_every_verb_is_checked_and_named(self, penstock: RunningPenstock) -> None:
        for name, verb in VERBS.items():
            sent = list(rubbish(verb))
            errors = await errors_to(penstock, name, [{field: value} for field, value in sent])
            for (field, value), error in zip(sent, errors, strict=True):
                what = (name, field, str(value)[:40], error)
                assert (error["code"], error["class"]) == ("invalid_request", "invalid"), what
                assert error["detail"]["field"].startswith(field), what
                assert "Traceback" not in error["message"] and len(error["message"]) < 1000, what

    async def test_a_batch_of_anything_is_answered_one_by_one(self, penstock: RunningPenstock) -> None:
        items: list[Any] = [None, True, 1, -1.5, "x", [], [[]], {"": {}}, {"no_such_field": None}]
        for name, verb in VERBS.items():
            if verb.batch:
                errors = await errors_to(penstock, name, items)
                assert [error["code"] for error in errors] == ["invalid_request"] * len(items), name

    async def test_no_verb_takes_more_than_a_batch_holds(self, penstock: RunningPenstock) -> None:
        body = b"[" + b",".join([b"{}"] * (MAX_BATCH + 1)) + b"]"
        for name in (name for name, verb in VERBS.items() if verb.batch):
            error = msgspec.json.decode((await penstock.ask(name, body)).data)["error"]
            assert error["code"] == "invalid_request", name
            assert error["detail"] == {"limit": MAX_BATCH, "size": MAX_BATCH + 1}, name

    async def test_a_cursor_counts_no_further_than_numbers_go(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        for verb in ("execution.history", "frame.read"):
            error = await penstock.refused(verb, {"execution_id": execution_id, "cursor": "9" * 20})
            assert (error.code, error.detail) == ("invalid_request", {"field": "cursor"})

    async def test_a_number_is_one(self, penstock: RunningPenstock) -> None:
        """JSON has no NaN and no infinity, and Penstock refuses a number that is too large for a float."""
        task: dict[str, Any] = {
            "execution_id": NOWHERE,
            "attempt_index": 1,
            "lease_id": "l",
            "lease_epoch": 1,
        }
        proof = msgspec.json.encode(task)[:-1]
        for text in (b"NaN", b"Infinity", b"-Infinity", b"1e400"):
            for verb, body in (
                ("execution.create", b'{"kind": "t", "priority": ' + text + b"}"),
                ("execution.create", b'{"kind": "t", "backoff": {"factor": ' + text + b"}}"),
                ("lease.progress", proof + b', "pct": ' + text + b"}"),
                ("lease.usage", proof + b', "dimensions": {"t": ' + text + b"}}"),
            ):
                error = msgspec.json.decode((await penstock.ask(verb, body)).data)["error"]
                assert error["code"] == "invalid_request", (verb, text, error)

    @pytest.mark.parametrize("change", [{"capabilities": MANY}, {"deadline_at": 1}, {"max_attempts": 0}])
    async def test_a_bad_spec_is_refused_wherever_one_is_made(
        self, penstock: RunningPenstock, change: Any
    ) -> None:
        [field] = change
        spec = {"kind": "t", **change}
        flow = {"controller_id": "c", "goal": "g", "owner": "o"}
        grown = await penstock.request("flow.create", flow)
        members = [{"key": "a", "kind": "t"}, {"key": "b", **spec}]
        more = {"flow_id": grown["flow_id"], "graph_revision": 0, "members": members}
        await penstock.create()
        task = await penstock.begin()
        for verb, body, place in (
            ("execution.create", spec, field),
            ("flow.create", {**flow, "members": members}, f"members[1].{field}"),
            ("flow.add_execution", more, f"members[1].{field}"),
            ("lease.complete", {**fence(task), "children": [{"kind": "t"}, spec]}, f"children[1].{field}"),
            ("schedule.create", {"every_ms": 60_000, "execution": spec}, f"execution.{field}"),
        ):
            error = await penstock.refused(verb, body)
            assert (error.code, error.detail) == ("invalid_request", {"field": place}), verb
        # The refused requests have created and changed nothing.
        assert len((await penstock.request("execution.list"))["items"]) == 1
        assert (await penstock.get(task["execution_id"]))["state"] == "running"
        assert len((await penstock.request("flow.list"))["items"]) == 1
        assert (await penstock.request("flow.get", {"flow_id": grown["flow_id"]}))["revision"] == 1
        assert (await penstock.request("schedule.list"))["items"] == []

    async def test_nobody_has_ten_thousand_capabilities(self, penstock: RunningPenstock) -> None:
        for verb in ("work.next", "work.grant", "worker.register", "worker.heartbeat"):
            error = await penstock.refused(verb, {"worker_id": "w", "capabilities": MANY})
            assert (error.code, error.detail) == ("invalid_request", {"field": "capabilities"})
        assert (await penstock.request("worker.list"))["items"] == []


class TestUnavailable:
    @pytest.fixture
    def valkey(self, tmp_path: Path) -> Iterator[ValkeyServer]:
        server = ValkeyServer(tmp_path)
        server.start()
        yield server
        server.kill()

    async def test_without_valkey_every_service_says_so(self, nats_url: str, valkey: ValkeyServer) -> None:
        async with RunningPenstock.open(nats_url, valkey.url) as penstock:
            await penstock.create()
            task = fence(await penstock.begin(lease_ttl_ms=600_000))
            ask = {"execution_id": task["execution_id"]}
            flow = {"controller_id": "c", "goal": "g", "owner": "o"}
            bodies: dict[str, Any] = {
                "execution.create": {"kind": "t"}, "execution.get": ask, "execution.list": {},
                "execution.replay": {**ask, "idempotency_key": "k"}, "execution.wait": ask,
                "work.next": {"worker_id": "w"}, "work.grant": {"worker_id": "w"},
                "lane.pause": {"lane": "default"}, "quota.create": {"max_concurrent": 1},
                "schedule.create": {"cron": "* * * * *", "execution": {"kind": "t"}},
                "budget.create": {"dimensions": {"t": {"hard": 1}}}, "flow.create": flow,
                "flow.update_state": {"flow_id": NOWHERE, "state_patch": 1},
                "lease.renew": task, "lease.complete": {**task, "children": [{"kind": "t"}]},
                "lease.usage": {**task, "budget_id": NOWHERE, "dimensions": {"t": 1}}, "frame.read": ask,
                "worker.register": {"worker_id": "w"}, "worker.list": {}, "lease.suspend": task,
                "signal.deliver": {"token": "t", "name": "n"}, "flow.create_mirrored": flow,
                "flow.steps": {"flow_id": NOWHERE}, "execution.cancel": ask, "cancel.backlog": {},
            }  # fmt: skip
            valkey.kill()
            for verb, body in bodies.items():
                error = await penstock.refused(verb, body)
                what = (verb, error.code, error.error_class, error.number, error.retryable)
                assert what == (verb, "valkey_unavailable", "unavailable", 503, True)
            # A batch is still answered item by item.
            answers = await penstock.request("execution.get", [ask, {"execution_id": "x"}])
            codes = [answer["error"]["code"] for answer in answers]
            assert codes == ["valkey_unavailable", "invalid_request"]
            valkey.start()

            async def renewed() -> Any:
                return await penstock.request("lease.renew", [task])

            await penstock.until(renewed, lambda answers: "ok" in answers[0], "Valkey's return")
            await penstock.request("lease.complete", task)

    async def test_a_service_that_stops_answers_what_it_has_not_done(
        self, nats_url: str, valkey: ValkeyServer
    ) -> None:
        async with RunningPenstock.open(nats_url, valkey.url, drain_timeout_ms=100) as penstock:
            body = msgspec.json.encode({"execution_id": await penstock.create()})
            redis: Redis[bytes] = Redis.from_url(valkey.url)
            await redis.client_pause(60_000, all=False)  # Valkey holds back commands that may write
            answered = await penstock.nats.subscribe(inbox := penstock.nats.new_inbox())
            await penstock.nats.publish(f"{penstock.root}.v1.execution.get", body, reply=inbox)
            await penstock.nats.flush()  # nats-server has passed the request on
            await penstock.services.pop("scheduler").stop()
            error = msgspec.json.decode((await answered.next_msg(timeout=WAIT_S)).data)["error"]
            assert (error["code"], error["class"], error["retryable"]) == ("timeout", "unavailable", True)
            await redis.client_unpause()
            await redis.aclose()


class TestTable:
    async def test_the_eighteen(self) -> None:
        assert {code for code, kind in TABLE.items() if kind.error_class == "contention"} == CONTENTION
        assert all(TABLE[code].retryable for code in CONTENTION)


class TestDiscovery:
    async def _ask(self, penstock: RunningPenstock, verb: str) -> list[dict[str, Any]]:
        """Return the answer of every service of this deployment to $SRV.<verb>."""
        inbox = penstock.nats.new_inbox()
        heard = await penstock.nats.subscribe(inbox)
        answers: dict[str, dict[str, Any]] = {}
        await penstock.nats.publish(f"$SRV.{verb}", reply=inbox)
        async with asyncio.timeout(WAIT_S):
            while not answers.keys() >= {f"{penstock.root}-{verb.service}" for verb in VERBS.values()}:
                answer = msgspec.json.decode((await heard.next_msg(timeout=WAIT_S)).data)
                if answer["name"].startswith(f"{penstock.root}-"):
                    answers[answer["name"]] = answer
        return list(answers.values())

    async def test_info_shows_every_verb_with_its_schemas(self, penstock: RunningPenstock) -> None:
        found: dict[str, dict[str, Any]] = {}
        for info in await self._ask(penstock, "INFO"):
            assert info["type"] == "io.nats.micro.v1.info_response"
            assert info["name"].removeprefix(f"{penstock.root}-") in SERVICES
            for endpoint in info["endpoints"]:
                found[endpoint["subject"]] = endpoint
        assert set(found) == {verb.subject(penstock.root) for verb in VERBS.values()}
        for verb in VERBS.values():
            endpoint = found[verb.subject(penstock.root)]
            assert endpoint["queue_group"] == f"{penstock.root}-{verb.service}"
            schema = msgspec.json.decode(endpoint["metadata"]["request_schema"])
            assert verb.request.__name__ in str(schema)
            assert msgspec.json.decode(endpoint["metadata"]["reply_schema"])
            assert endpoint["metadata"]["batch"] == ("true" if verb.batch else "false")

    async def test_stats_count_requests_and_errors(self, penstock: RunningPenstock) -> None:
        await penstock.create()
        await penstock.refused("execution.create", {})
        stats = {
            endpoint["subject"]: endpoint
            for each in await self._ask(penstock, "STATS")
            for endpoint in each["endpoints"]
        }
        create = stats[f"{penstock.root}.v1.execution.create"]
        assert (create["num_requests"], create["num_errors"]) == (2, 1)

    async def test_ping(self, penstock: RunningPenstock) -> None:
        assert {each["type"] for each in await self._ask(penstock, "PING")} == {
            "io.nats.micro.v1.ping_response"
        }
