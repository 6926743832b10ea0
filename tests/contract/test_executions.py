"""execution.create and execution.wait: payloads, idempotency keys and times."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
from nats.errors import NoRespondersError

from penstock.ids import partition_of
from penstock.store import library
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence

DAY = 86_400_000


FIELDS = {
    "execution_id", "namespace", "kind", "lane", "priority", "state", "reason", "outcome", "input", "result",
    "failure", "attempt_index", "attempt_id", "max_attempts", "reclaims", "max_reclaims", "lease", "lease_epoch",
    "flow_id", "parent_id", "replay_of", "tags", "capabilities", "progress", "cancel_requested", "created_at",
    "ready_at", "started_at", "updated_at", "finished_at", "deadline_at", "traceparent", "seq",
    "version", "journal", "forked_from", "continues", "continued_by", "retry_on", "fail_on",
}  # fmt: skip


BAD_FIELDS: list[tuple[Any, str]] = [
    ({}, "kind"),
    ({"kind": ""}, "kind"),
    ({"kind": "a..b"}, "kind"),
    ({"kind": "a b"}, "kind"),
    ({"kind": "a.*"}, "kind"),
    ({"kind": "a" * 129}, "kind"),
    ({"kind": "a\n"}, "kind"),
    ({"kind": None}, "kind"),
    ({"kind": "t", "lane": "a.b"}, "lane"),
    ({"kind": "t", "lane": ""}, "lane"),
    ({"kind": "t", "namespace": "ü"}, "namespace"),
    ({"kind": "t", "priority": 128}, "priority"),
    ({"kind": "t", "priority": -129}, "priority"),
    ({"kind": "t", "priority": "high"}, "priority"),
    ({"kind": "t", "priority": 1.5}, "priority"),
    ({"kind": "t", "priority": True}, "priority"),
    ({"kind": "t", "run_at": -1}, "run_at"),
    ({"kind": "t", "run_at": 2**60}, "run_at"),
    ({"kind": "t", "run_at": "2026-01-01"}, "run_at"),
    ({"kind": "t", "deadline_at": 1}, "deadline_at"),
    ({"kind": "t", "max_attempts": 0}, "max_attempts"),
    ({"kind": "t", "max_reclaims": -1}, "max_reclaims"),
    ({"kind": "t", "attempt_timeout_ms": 0}, "attempt_timeout_ms"),
    ({"kind": "t", "retention_ms": 0}, "retention_ms"),
    ({"kind": "t", "backoff": {"kind": "linear"}}, "backoff.kind"),
    ({"kind": "t", "backoff": {"jitter": 1.1}}, "backoff.jitter"),
    ({"kind": "t", "backoff": {"factor": 0}}, "backoff.factor"),
    ({"kind": "t", "backoff": {"delay": 1}}, "backoff.delay"),
    ({"kind": "t", "capabilities": ["a,b"]}, "capabilities[0]"),
    ({"kind": "t", "capabilities": [f"c{i}" for i in range(33)]}, "capabilities"),
    ({"kind": "t", "tags": {"a": 1}}, "tags[...]"),
    ({"kind": "t", "tags": {"a b": "1"}}, "tags"),
    ({"kind": "t", "idempotency_key": ""}, "idempotency_key"),
    ({"kind": "t", "colour": "red"}, "colour"),
]


PAYLOADS = [
    "9223372036854775807",
    "-9223372036854775808",
    "123456789012345678901234567890",
    "[]",
    "{}",
    '{"empty":[],"none":{},"zero":0}',
    '{"z":1,"a":2,"m":3}',
    '{"twice":1,"twice":2}',
    "1.0",
    "-0.0",
    "1e400",
    "3.141592653589793238462643383279",
    '"Grüße, 世界, 🚰, \\u0000, \\ud83d\\udeb0, \\/"',
    '{ "spaced" : [ 1 ,\t2 ] }',
    "true",
    '"null"',
    "[null]",
]


class TestCreate:
    async def test_the_record_has_all_fields(self, penstock: RunningPenstock) -> None:
        created = await penstock.request("execution.create", {"kind": "mail.send"})
        assert created["state"] == "ready" and created["duplicate"] is False
        record = await penstock.get(created["execution_id"])
        assert set(record) == FIELDS
        assert (
            record["state"] == "ready" and record["ready_at"] == record["created_at"] == record["updated_at"]
        )
        defaults = {
            "namespace": "default", "lane": "default", "priority": 0, "reason": None, "input": None, "seq": 1,
            "attempt_index": 0, "max_attempts": 1, "reclaims": 0, "max_reclaims": 10, "lease": None, "tags": {},
            "capabilities": [], "cancel_requested": False, "finished_at": None, "flow_id": None,
        }  # fmt: skip
        assert {name: record[name] for name in defaults} == defaults

    async def test_what_was_asked_for_stands_in_the_record(self, penstock: RunningPenstock) -> None:
        deadline = int(time.time() * 1000) + DAY
        spec: dict[str, Any] = {
            "kind": "mail.send", "lane": "mail", "priority": -128, "namespace": "billing", "max_attempts": 7,
            "max_reclaims": 0, "tags": {"a": "1", "b": "ü"}, "capabilities": ["ssd", "gpu", "ssd"],
            "deadline_at": deadline, "input": {"to": "you"},
        }  # fmt: skip
        record = await penstock.get(await penstock.create(**spec))
        assert {name: record[name] for name in spec} == {**spec, "capabilities": ["gpu", "ssd"]}

    async def test_payloads_pass_byte_for_byte(self, penstock: RunningPenstock) -> None:
        for text in PAYLOADS:
            await self._passes(penstock, text)

    async def _passes(self, penstock: RunningPenstock, text: str) -> None:
        body = b'{"kind": "t", "input": ' + text.encode() + b"}"
        created = msgspec.json.decode((await penstock.ask("execution.create", body)).data)
        execution_id = created["execution_id"]
        asked = msgspec.json.encode({"execution_id": execution_id})
        assert b'"input":' + text.encode() in (await penstock.ask("execution.get", asked)).data
        taken = await penstock.ask(
            "work.next", msgspec.json.encode({"worker_id": "w", "start": True, "wait_ms": 5000})
        )
        assert b'"input":' + text.encode() in taken.data
        task = msgspec.json.decode(taken.data, type=dict[str, list[dict[str, msgspec.Raw]]])["tasks"][0]
        proof = {name: msgspec.json.decode(value) for name, value in task.items() if name != "input"}
        outcome = msgspec.json.encode(fence(proof))[:-1] + b', "result": ' + text.encode() + b"}"
        assert (await penstock.ask("lease.complete", outcome)).data == b'{"state":"completed"}'
        assert b'"result":' + text.encode() in (await penstock.ask("execution.get", asked)).data

    async def test_a_batch_with_bad_items(self, penstock: RunningPenstock) -> None:
        answers = await penstock.request(
            "execution.create",
            [{"kind": "good"}, {"kind": "bad kind"}, {"kind": "good", "priority": 128}, {"kind": "good"}, 7],
        )
        assert [set(answer) for answer in answers] == [{"ok"}, {"error"}, {"error"}, {"ok"}, {"error"}]
        assert [each["error"]["code"] for each in answers if "error" in each] == ["invalid_request"] * 3
        assert answers[2]["error"]["detail"]["field"] == "priority"
        page = await penstock.request("execution.list", {"kind": "good"})
        assert len(page["items"]) == 2

    async def test_an_empty_batch(self, penstock: RunningPenstock) -> None:
        assert await penstock.request("execution.create", []) == []

    async def test_bad_fields_are_named(self, penstock: RunningPenstock) -> None:
        for body, field in BAD_FIELDS:
            error = await penstock.refused("execution.create", body)
            assert (error.code, error.number) == ("invalid_request", 400), body
            assert error.detail["field"] == field
            assert field.split(".")[-1].split("[")[0] in error.message
        assert (await penstock.request("execution.list"))["items"] == []

    async def test_what_is_no_json_object(self, penstock: RunningPenstock) -> None:
        texts = [
            b"{",
            b'"text"',
            b"7",
            b"null",
            b"true",
            b"\xff\xfe",
            b"[",
            b'[{"kind": "t"}',
            b'{"kind": "t"} x',
        ]
        for body in (*texts, b"[" * 5000, b'{"kind": ' * 5000):
            reply = await penstock.ask("execution.create", body)
            error = msgspec.json.decode(reply.data)["error"]
            assert (error["code"], error["class"], error["retryable"]) == (
                "invalid_request",
                "invalid",
                False,
            )
            assert "Traceback" not in error["message"]
        assert (await penstock.request("execution.list"))["items"] == []

    async def test_run_at_and_deadline_must_make_sense(self, penstock: RunningPenstock) -> None:
        now = int(time.time() * 1000)
        error = await penstock.refused(
            "execution.create", {"kind": "t", "run_at": now + DAY, "deadline_at": now + DAY}
        )
        assert (error.code, error.detail) == ("invalid_request", {"field": "run_at"})

    async def test_a_batch_has_a_limit(self, penstock: RunningPenstock) -> None:
        reply = await penstock.ask("execution.get", b"[" + b",".join([b"{}"] * 10_001) + b"]")
        error = msgspec.json.decode(reply.data)["error"]
        assert error["code"] == "invalid_request" and error["detail"] == {"limit": 10_000, "size": 10_001}

    async def test_an_unknown_verb_has_no_responders(self, penstock: RunningPenstock) -> None:
        with pytest.raises(NoRespondersError):
            await penstock.nats.request(f"{penstock.root}.v1.execution.explode", b"{}", timeout=5)


class TestPayloadLimit:
    async def test_past_the_limit(self, nats_url: str, valkey_url: str) -> None:
        async with RunningPenstock.open(nats_url, valkey_url, max_payload_bytes=2048) as penstock:
            fits, too_large = "x" * 2046, "x" * 2047
            answers = await penstock.request(
                "execution.create", [{"kind": "t", "input": fits}, {"kind": "t", "input": too_large}]
            )
            assert "ok" in answers[0]
            error = answers[1]["error"]
            assert error["code"] == "payload_too_large"
            assert error["detail"] == {"field": "input", "limit": 2048, "size": 2049}
            task = await penstock.begin()
            refused = await penstock.refused("lease.complete", {**fence(task), "result": too_large})
            assert refused.code == "payload_too_large" and refused.detail["field"] == "result"
            await penstock.request("lease.complete", {**fence(task), "result": fits})

    async def test_a_megabyte_passes(self, penstock: RunningPenstock) -> None:
        text = "é" * (2**19 - 1)
        execution_id = await penstock.create(input=text)
        task = await penstock.begin()
        assert task["input"] == text
        await penstock.request("lease.complete", {**fence(task), "result": text})
        assert (await penstock.get(execution_id))["result"] == text

    async def test_many_large_inputs_do_not_burst_a_message(self, penstock: RunningPenstock) -> None:
        """A NATS message holds 8 MiB here: a worker that asks for twenty tasks of 1 MB gets those that fit."""
        await asyncio.gather(*(penstock.create(input="x" * 1_000_000) for _ in range(20)))
        seen: set[str] = set()
        while len(seen) < 20:
            tasks = await penstock.take(20, start=True)
            assert tasks
            assert not seen & {task["execution_id"] for task in tasks}
            seen |= {task["execution_id"] for task in tasks}


class TestIdempotency:
    async def test_the_same_body_answers_the_first_reply(self, penstock: RunningPenstock) -> None:
        body = {"kind": "t", "input": {"n": 1}, "idempotency_key": "once"}
        first = await penstock.request("execution.create", body)
        await penstock.begin()
        for _ in range(5):
            again = await penstock.request("execution.create", body)
            assert again == {**first, "duplicate": True}
        assert len((await penstock.request("execution.list"))["items"]) == 1

    async def test_another_body_is_a_conflict(self, penstock: RunningPenstock) -> None:
        body = {"kind": "t", "input": {"n": 1}, "idempotency_key": "once"}
        await penstock.request("execution.create", body)
        for other in ({"input": {"n": 2}}, {"lane": "other"}, {"priority": 1}, {"tags": {"a": "b"}}):
            error = await penstock.refused("execution.create", {**body, **other})
            assert (error.code, error.error_class) == ("idempotency_conflict", "conflict")

    async def test_namespaces_have_their_own_keys(self, penstock: RunningPenstock) -> None:
        body = {"kind": "t", "idempotency_key": "once"}
        one = await penstock.request("execution.create", body)
        two = await penstock.request("execution.create", {**body, "namespace": "other"})
        assert one["execution_id"] != two["execution_id"] and two["duplicate"] is False

    async def test_twice_in_one_batch(self, penstock: RunningPenstock) -> None:
        body = {"kind": "t", "idempotency_key": "once"}
        answers = await penstock.request("execution.create", [body, body, {**body, "kind": "u"}])
        assert answers[0]["ok"]["execution_id"] == answers[1]["ok"]["execution_id"]
        assert [answers[0]["ok"]["duplicate"], answers[1]["ok"]["duplicate"]] == [False, True]
        assert answers[2]["error"]["code"] == "idempotency_conflict"

    async def test_many_at_once_make_one(self, penstock: RunningPenstock) -> None:
        body = {"kind": "t", "idempotency_key": "once"}
        replies = await asyncio.gather(*(penstock.request("execution.create", body) for _ in range(20)))
        assert len({reply["execution_id"] for reply in replies}) == 1
        assert sum(not reply["duplicate"] for reply in replies) == 1


class TestWait:
    async def test_what_has_ended_answers_at_once(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        task = await penstock.begin()
        await penstock.request("lease.complete", {**fence(task), "result": [1]})
        record = await penstock.request("execution.wait", {"execution_id": execution_id, "wait_ms": 60_000})
        assert (record["state"], record["result"]) == ("completed", [1])
        assert set(record) == FIELDS

    async def test_many_who_wait_are_woken_by_the_end(self, nats_url: str, valkey_url: str) -> None:
        async with RunningPenstock.open(nats_url, valkey_url, sweep_ms=600_000) as penstock:
            await self.woken(penstock)

    async def woken(self, penstock: RunningPenstock) -> None:
        """Only the end's hint can wake who waits: there is no sweep within the requests' time."""
        execution_id = await penstock.create()
        body = {"execution_id": execution_id, "wait_ms": 60_000}
        waiting = [
            asyncio.create_task(penstock.request("execution.wait", body, timeout=WAIT_S)) for _ in range(10)
        ]
        task = await penstock.begin()
        assert not any(each.done() for each in waiting)
        await penstock.request("lease.fail", {**fence(task), "reason": "no", "category": "bad"})
        records = await asyncio.gather(*waiting)
        assert {record["state"] for record in records} == {"failed"}

    async def test_who_waits_changes_nothing(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        before = await self._stored(penstock, execution_id)
        waiting = await penstock.waits("execution", execution_id)
        assert await self._stored(penstock, execution_id) == before
        await penstock.request("lease.complete", {**fence(await penstock.begin())})
        assert (await waiting)["state"] == "completed"

    async def test_a_record_too_large_for_a_hint_wakes_too(self, nats_url: str, valkey_url: str) -> None:
        async with RunningPenstock.open(nats_url, valkey_url, sweep_ms=600_000) as penstock:
            waiting = await penstock.waits("execution", await penstock.create(input="x" * 100_000))
            await penstock.request(
                "lease.complete", {**fence(await penstock.begin()), "result": "y" * 100_000}
            )
            assert len((await waiting)["result"]) == 100_000

    async def test_a_valkey_that_forgot_who_waits_is_asked_again(
        self, nats_url: str, valkey_url: str
    ) -> None:
        async with RunningPenstock.open(nats_url, valkey_url, sweep_ms=200) as penstock:
            waiting = await penstock.waits("execution", await penstock.create())
            store = penstock.running["scheduler"].context.machine.store
            await store.execute_everywhere("FUNCTION", "LOAD", "REPLACE", library.assemble()[0])
            await penstock.request("lease.complete", {**fence(await penstock.begin())})
            assert (await waiting)["state"] == "completed"

    @staticmethod
    async def _stored(penstock: RunningPenstock, execution_id: str) -> bytes:
        key = f"{penstock.root}:{{{partition_of(execution_id)}}}:x:{execution_id}"
        return await penstock.running["scheduler"].context.machine.store.execute("DUMP", key)

    async def test_the_time_limit_answers_the_record_as_it_is(self, penstock: RunningPenstock) -> None:
        execution_id = await penstock.create()
        for wait_ms in (0, 50):
            body = {"execution_id": execution_id, "wait_ms": wait_ms}
            assert (await penstock.request("execution.wait", body))["state"] == "ready"

    async def test_a_scheduler_that_drains_lets_them_go(self, penstock: RunningPenstock) -> None:
        waiting = await penstock.waits("execution", await penstock.create())
        await penstock.running["scheduler"].stop()
        assert (await waiting)["state"] == "ready"  # long before the 60 s of the request have passed

    async def test_a_batch_waits_for_all(self, penstock: RunningPenstock) -> None:
        ids = [await penstock.create() for _ in range(2)]
        waiting = asyncio.create_task(
            penstock.request("execution.wait", [{"execution_id": each} for each in [*ids, NOWHERE]])
        )
        for task in await penstock.take(1, start=True) + await penstock.take(1, start=True):
            await penstock.request("lease.complete", fence(task))
        answers = await waiting
        assert [answer["ok"]["state"] for answer in answers[:2]] == ["completed"] * 2
        assert answers[2]["error"]["code"] == "execution_not_found"

    async def test_at_most_a_minute(self, penstock: RunningPenstock) -> None:
        error = await penstock.refused("execution.wait", {"execution_id": NOWHERE, "wait_ms": 60_001})
        assert error.detail == {"field": "wait_ms"}


class TestTime:
    async def test_run_at(self, penstock: RunningPenstock) -> None:
        now = int(time.time() * 1000)
        execution_id = await penstock.create(run_at=now + DAY)
        record = await penstock.get(execution_id)
        assert (record["state"], record["reason"], record["ready_at"]) == ("scheduled", "time", None)
        assert await penstock.take(wait_ms=0) == []
        penstock.move_clock(DAY)
        record = await penstock.reaches(execution_id, "ready")
        assert record["reason"] is None and record["ready_at"] >= now + DAY
        assert (await penstock.begin())["execution_id"] == execution_id

    async def test_a_run_at_in_the_past_is_ready_at_once(self, penstock: RunningPenstock) -> None:
        assert (await penstock.get(await penstock.create(run_at=1)))["state"] == "ready"

    async def test_a_deadline_cancels_what_has_not_begun(self, penstock: RunningPenstock) -> None:
        now = int(time.time() * 1000)
        scheduled = await penstock.create(run_at=now + DAY, deadline_at=now + DAY + 1)
        ready = await penstock.create(deadline_at=now + DAY)
        leased = await penstock.create(deadline_at=now + DAY // 2, lane="leased")
        [task] = await penstock.take(lanes=["leased"], lease_ttl_ms=DAY)
        penstock.move_clock(DAY // 2 + 1000)
        await penstock.reaches(leased, "canceled")
        penstock.move_clock(DAY)
        for execution_id in (scheduled, ready, leased):
            record = await penstock.reaches(execution_id, "canceled")
            assert record["outcome"] == "canceled"
            assert record["failure"]["category"] == "deadline_exceeded"
        assert (await penstock.refused("lease.start", fence(task))).code == "execution_not_active"
        assert await penstock.take(wait_ms=0) == []

    async def test_a_deadline_fails_what_runs_and_tells_its_worker(self, penstock: RunningPenstock) -> None:
        pushed = await penstock.nats.subscribe(f"{penstock.root}.worker.w1")
        deadline = int(time.time() * 1000) + DAY // 2
        execution_id = await penstock.create(deadline_at=deadline, max_attempts=9)
        task = await penstock.begin(lease_ttl_ms=DAY)
        assert task["deadline_at"] == deadline
        penstock.move_clock(DAY // 2)
        record = await penstock.reaches(execution_id, "failed")
        assert record["failure"]["category"] == "deadline_exceeded"
        message = msgspec.json.decode((await pushed.next_msg(timeout=WAIT_S)).data)
        assert message == {"type": "cancel", "execution_id": execution_id, "lease_id": task["lease_id"]}
        error = await penstock.refused("lease.complete", fence(task))
        assert error.code == "execution_not_active"
        assert error.detail == {
            "terminal_outcome": "failed",
            "lease_epoch": 1,
            "lifecycle_phase": "failed",
            "attempt_id": task["attempt_id"],
        }

    async def test_retention(self, penstock: RunningPenstock) -> None:
        short = await penstock.create(retention_ms=1000)
        kept = await penstock.create(lane="other")
        for task in await penstock.take(2, start=True, lanes=["default"]) + await penstock.take(
            2, start=True, lanes=["other"]
        ):
            await penstock.request("lease.complete", fence(task))
        penstock.move_clock(DAY)

        async def gone() -> bool:
            answers = await penstock.request(
                "execution.get", [{"execution_id": short}, {"execution_id": kept}]
            )
            assert answers[1]["ok"]["state"] == "completed"
            return "error" in answers[0]

        await penstock.until(gone, bool, "its leaving")
        items = (await penstock.request("execution.list"))["items"]
        assert [item["execution_id"] for item in items] == [kept]
        penstock.move_clock(7 * DAY)
        await penstock.until(
            lambda: penstock.request("execution.list"), lambda page: not page["items"], "no records"
        )
