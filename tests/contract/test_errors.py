"""How errors look on the wire, and what service discovery tells; over NATS only."""

import asyncio
from typing import Any

import msgspec

from house import House
from penstock.errors import TABLE
from penstock.verbs import SERVICES, VERBS

NOWHERE = "0-00000000-0000-7000-8000-000000000000"
CONTENTION = {
    "use_claim_resumed_execution", "not_a_resumed_execution", "execution_not_leaseable", "lease_conflict",
    "invalid_claim_grant", "claim_grant_expired", "no_eligible_execution", "waitpoint_not_found",
    "waitpoint_pending_use_buffer", "stale_graph_revision", "execution_not_active", "execution_not_eligible",
    "execution_not_in_eligible_set", "execution_not_reclaimable", "no_active_lease", "rate_limit_exceeded",
    "concurrency_limit_exceeded", "retry_exhausted",
}  # fmt: skip


class TestWire:
    async def test_a_single_failure_has_headers_and_a_body(self, penstock: House) -> None:
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

    async def test_a_batch_has_none(self, penstock: House) -> None:
        reply = await penstock.ask("execution.get", msgspec.json.encode([{"execution_id": NOWHERE}]))
        assert not reply.headers
        [item] = msgspec.json.decode(reply.data)
        assert item["error"]["code"] == "execution_not_found"

    async def test_a_good_answer_has_none(self, penstock: House) -> None:
        assert not (await penstock.ask("execution.list", b"")).headers

    async def test_a_header_holds_one_line(self, penstock: House) -> None:
        body = msgspec.json.encode({"kind": "t", "colour\r\nX-Evil": "1"})
        reply = await penstock.ask("execution.create", body)
        assert reply.headers["Nats-Service-Error-Code"] == "400"
        assert set(reply.headers) == {"Nats-Service-Error-Code", "Nats-Service-Error"}
        assert "\n" not in reply.headers["Nats-Service-Error"]

    async def test_unknown_fields_are_refused_by_every_verb(self, penstock: House) -> None:
        for verb in VERBS:
            error = await penstock.refused(verb, {"no_such_field": 1})
            assert (error.code, error.error_class, error.number) == ("invalid_request", "invalid", 400), verb

    async def test_nonsense_is_refused_by_every_verb(self, penstock: House) -> None:
        for verb in VERBS:
            for body in (b"{]", b"\x00", b'"x"', b"-", b"\xf0\x28\x8c\x28"):
                reply = await penstock.ask(verb, body)
                error = msgspec.json.decode(reply.data)["error"]
                assert error["code"] == "invalid_request", (verb, body)
                assert "Traceback" not in error["message"] and "/" not in error["message"]

    async def test_batches_are_taken_where_the_contract_says_so(self, penstock: House) -> None:
        for name, verb in VERBS.items():
            reply = msgspec.json.decode((await penstock.ask(name, b"[7, 8]")).data)
            if verb.batch:
                assert [item["error"]["code"] for item in reply] == ["invalid_request"] * 2, name
            else:
                assert reply["error"]["code"] == "invalid_request", name
            resource = name.partition(".")[0]
            if resource in ("execution", "lease", "signal") or name == "flow.observe":
                assert verb.batch, f"{name} must take batches"


class TestTable:
    async def test_the_eighteen(self) -> None:
        assert {code for code, kind in TABLE.items() if kind.error_class == "contention"} == CONTENTION
        assert all(TABLE[code].retryable for code in CONTENTION)


class TestDiscovery:
    async def _ask(self, penstock: House, verb: str) -> list[dict[str, Any]]:
        """What every service of this house answers."""
        inbox = penstock.nats.new_inbox()
        heard = await penstock.nats.subscribe(inbox)
        answers: dict[str, dict[str, Any]] = {}
        await penstock.nats.publish(f"$SRV.{verb}", reply=inbox)
        async with asyncio.timeout(20):
            while not answers.keys() >= {f"{penstock.root}-{verb.service}" for verb in VERBS.values()}:
                answer = msgspec.json.decode((await heard.next_msg(timeout=20)).data)
                if answer["name"].startswith(f"{penstock.root}-"):
                    answers[answer["name"]] = answer
        return list(answers.values())

    async def test_info_shows_every_verb_with_its_schemas(self, penstock: House) -> None:
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

    async def test_stats_count_requests_and_errors(self, penstock: House) -> None:
        await penstock.create()
        await penstock.refused("execution.create", {})
        stats = {
            endpoint["subject"]: endpoint
            for each in await self._ask(penstock, "STATS")
            for endpoint in each["endpoints"]
        }
        create = stats[f"{penstock.root}.v1.execution.create"]
        assert (create["num_requests"], create["num_errors"]) == (2, 1)

    async def test_ping(self, penstock: House) -> None:
        assert {each["type"] for each in await self._ask(penstock, "PING")} == {
            "io.nats.micro.v1.ping_response"
        }
