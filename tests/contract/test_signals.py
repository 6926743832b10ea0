"""Waitpoints, suspensions, and signals that are delivered by request or published; tested over NATS only."""

import asyncio
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.js.api import DeliverPolicy

from penstock import audit
from penstock.ids import new_id
from penstock.runtime import Running
from running_penstock import NOWHERE, WAIT_S, RunningPenstock, fence

APPROVED = {"name": "approved"}


def metric(service: Running, name: str) -> float:
    """Return the sum of a metric of one service, over its labels."""
    lines = service.metrics.exposition().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


async def running(penstock: RunningPenstock, **spec: Any) -> dict[str, Any]:
    await penstock.create(**spec)
    return await penstock.begin()


async def waitpoint(
    penstock: RunningPenstock, task: dict[str, Any], key: str = "k", **more: Any
) -> dict[str, Any]:
    return await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": key, **more})


async def suspend(penstock: RunningPenstock, task: dict[str, Any], **more: Any) -> dict[str, Any]:
    return await penstock.request("lease.suspend", fence(task) | more)


async def deliver(penstock: RunningPenstock, token: str, name: str = "approved", **more: Any) -> str:
    reply = await penstock.request("signal.deliver", {"token": token, "name": name, **more})
    assert reply["signal_id"] == more.get("signal_id", reply["signal_id"])
    return reply["effect"]


async def publish(penstock: RunningPenstock, to: str, name: str, body: bytes = b"", **headers: str) -> None:
    subject = f"{penstock.root}.signal.{to}.{name}"
    await penstock.js.publish(subject, body, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def letters(penstock: RunningPenstock, count: int) -> list[Msg]:
    """Wait for `count` dead letters of signals and return them."""
    subscription = await penstock.js.subscribe(
        f"{penstock.root}.dead.signal.>", ordered_consumer=True, deliver_policy=DeliverPolicy.ALL
    )
    return [await subscription.next_msg(WAIT_S) for _ in range(count)]


async def events(penstock: RunningPenstock, name: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait for `count` waitpoint events of this name in the audit trail and return them."""
    subscription = await trail(penstock, f"*.waitpoint.{name}")
    return [msgspec.json.decode((await subscription.next_msg(WAIT_S)).data) for _ in range(count)]


async def test_the_router_does_not_ask_for_a_waitpoint_that_it_has_made(penstock: RunningPenstock):
    router, commands = penstock.services["signal-router"], list[float]()
    for _ in range(5):
        waits = await suspend(penstock, await running(penstock), condition={"name": "never"})
        before = metric(router, "penstock_store_call_commands_sum")
        assert await deliver(penstock, waits["token"]) == "recorded"
        commands.append(metric(router, "penstock_store_call_commands_sum") - before)
    assert min(commands) == 1  # more is what the router does by the way


async def trail(penstock: RunningPenstock, subject: str) -> Any:
    """Subscribe to these subjects of the audit stream, from its beginning."""
    return await penstock.js.subscribe(
        f"{penstock.root}.audit.{subject}",
        stream=f"{penstock.root.upper()}_AUDIT",
        ordered_consumer=True,
        deliver_policy=DeliverPolicy.ALL,
    )


def wrong(token: str) -> str:
    """Return the same token with another MAC."""
    return token[:-2] + ("AA" if token[-2:] != "AA" else "BB")


async def test_suspend_deliver_resume(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    reply = await suspend(penstock, task, reason_code="approval", condition=APPROVED)
    assert reply["outcome"] == "suspended" and reply["suspension_id"]
    assert reply["token"].split(".")[1] == reply["waitpoint_id"]
    assert await suspend(penstock, task, reason_code="approval", condition=APPROVED) == reply
    record = await penstock.get(task["execution_id"])
    assert (record["state"], record["reason"], record["lease"]) == ("suspended", "signal", None)

    assert await deliver(penstock, reply["token"], "other") == "recorded"
    payload = {"empty": [], "big": 2**63 + 1, "z": 1, "a": 2}
    sent = {"payload": payload, "source": "jo", "signal_id": "s1"}
    assert await deliver(penstock, reply["token"], **sent) == "resumed"
    assert await deliver(penstock, reply["token"], **sent) == "duplicate"
    assert await deliver(penstock, reply["token"], signal_id="s2") == "ignored"

    again = await penstock.begin()
    assert again["resumed"] and again["attempt_index"] == task["attempt_index"]
    raw = await penstock.ask("signal.resumed_by", msgspec.json.encode(fence(again)))
    assert msgspec.json.encode(payload) in raw.data  # byte for byte
    page = msgspec.json.decode(raw.data)
    [item] = page["items"]
    assert item["at"] > 0 and page["cursor"] is None
    assert (item["signal_id"], item["name"], item["source"]) == ("s1", "approved", "jo")
    await penstock.request("lease.complete", fence(again))
    assert (await penstock.get(task["execution_id"]))["state"] == "completed"


async def test_buffered_before_the_suspension(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    made = await waitpoint(penstock, task)
    assert made["expires_at"] > 0
    assert await waitpoint(penstock, task) == made  # a repeat after a lost reply
    assert await deliver(penstock, made["token"], payload=1) == "buffered"
    page = await penstock.request("signal.resumed_by", fence(task))
    assert page == {"items": [], "cursor": None}
    reply = await suspend(penstock, task, waitpoint_id=made["waitpoint_id"], condition=APPROVED)
    assert reply["outcome"] == "already_satisfied"
    assert [item["payload"] for item in reply["items"]] == [1]
    await penstock.request("lease.complete", fence(task))  # the worker has kept its lease


async def test_batches(penstock: RunningPenstock) -> None:
    tasks = [await running(penstock) for _ in range(3)]
    requests = [fence(task) | {"condition": APPROVED} for task in tasks]
    requests[1]["condition"] = {"name": "a", "any_of": [APPROVED]}
    replies = await penstock.request("lease.suspend", requests)
    assert [reply.get("ok", {}).get("outcome") for reply in replies] == ["suspended", None, "suspended"]
    assert replies[1]["error"]["code"] == "invalid_request"
    tokens = [replies[0]["ok"]["token"], "nonsense", replies[2]["ok"]["token"], replies[2]["ok"]["token"]]
    answers = await penstock.request("signal.deliver", [{"token": t, "name": "approved"} for t in tokens])
    assert [answer.get("ok", {}).get("effect") for answer in answers] == [
        "resumed",
        None,
        "resumed",
        "ignored",
    ]
    assert answers[1]["error"]["code"] == "invalid_token"


@pytest.mark.parametrize(
    ("behavior", "state"),
    [("fail", "failed"), ("cancel", "canceled"), ("resume", "ready"), ("escalate", None)],
)
async def test_timeouts(penstock: RunningPenstock, behavior: str, state: str | None) -> None:
    task = await running(penstock, max_attempts=3)
    reply = await suspend(penstock, task, timeout_ms=60_000, timeout_behavior=behavior)
    penstock.move_clock(60_001)
    execution_id = task["execution_id"]
    if state is None:
        subscription = await trail(penstock, "*.execution.escalated")
        assert msgspec.json.decode((await subscription.next_msg(WAIT_S)).data)["id"] == execution_id
        assert await deliver(penstock, reply["token"]) == "resumed"
        return
    record = await penstock.reaches(execution_id, state)
    if behavior == "fail":
        assert record["failure"]["category"] == "suspension_timeout"
    assert await deliver(penstock, reply["token"]) == "ignored"
    if behavior == "resume":
        again = await penstock.begin()
        assert again["resumed"]
        assert (await penstock.request("signal.resumed_by", fence(again)))["items"] == []


async def test_an_expired_waitpoint_ignores_signals(penstock: RunningPenstock) -> None:
    task = await running(penstock)
    made = await waitpoint(penstock, task, expires_in_ms=10_000)
    penstock.move_clock(10_001)
    [event] = await events(penstock, "expired")
    assert event["id"] == made["waitpoint_id"]
    assert await deliver(penstock, made["token"]) == "ignored"
    error = await penstock.refused("lease.suspend", fence(task) | {"waitpoint_id": made["waitpoint_id"]})
    assert error.code == "waitpoint_not_found"


class TestTokens:
    async def test_whatever_is_wrong_answers_the_same_and_is_told_of(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        made = await waitpoint(penstock, task)
        other = await waitpoint(penstock, task, "other")
        key_id, _, mac = made["token"].split(".")
        right = {"name": "approved", "token": made["token"]}
        refused = [
            {"name": "approved", "token": wrong(made["token"])},
            {"name": "approved", "token": "nonsense"},
            {"name": "approved", "token": f"{key_id}.{NOWHERE}.{mac}"},
            {"name": "approved", "token": f"{key_id}.{NOWHERE.replace('0-', '99-', 1)}.{mac}"},
            {"name": "approved", "token": f"{key_id}.{other['waitpoint_id']}.{mac}"},
            {"name": "approved", "token": f"00000000.{made['waitpoint_id']}.{mac}"},
            {**right, "waitpoint_key": "other"},
            {**right, "execution_id": NOWHERE},
        ]
        errors = [await penstock.refused("signal.deliver", body) for body in refused]
        assert {(error.code, error.number, error.message) for error in errors} == {
            ("invalid_token", 401, errors[0].message)
        }
        told = await events(penstock, "token_rejected", len(refused))
        ids = [event["id"] for event in told]
        assert ids.count(made["waitpoint_id"]) == 4 and ids.count(other["waitpoint_id"]) == 1
        assert ids.count("0-unknown") == 3
        assert mac not in repr(told)
        beside = {"execution_id": task["execution_id"], "waitpoint_key": "k"}
        assert await deliver(penstock, made["token"], **beside) == "buffered"

    async def test_refusals_in_every_partition_leave_the_chain_whole(self, penstock: RunningPenstock) -> None:
        made = await waitpoint(penstock, await running(penstock))
        key_id, _, mac = made["token"].split(".")
        partitions = list(range(penstock.settings.partitions)) * 2
        for partition in partitions:
            token = f"{key_id}.{NOWHERE.replace('0-', f'{partition}-', 1)}.{mac}"
            await penstock.refused("signal.deliver", {"token": token, "name": "approved"})
        ids = [event["id"] for event in await events(penstock, "token_rejected", len(partitions))]
        assert sorted(ids) == sorted(f"{partition}-unknown" for partition in partitions)
        report = await audit.verify(penstock.nats, f"{penstock.root.upper()}_AUDIT")
        assert report.ok, report.sentence()

    async def test_a_flood_of_bad_tokens_costs_valkey_little(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        made = await waitpoint(penstock, task)
        key_id, _, mac = made["token"].split(".")
        router = penstock.running["signal-router"]

        gone = f"{key_id}.{NOWHERE}.{mac}"
        floods = {
            "of one waitpoint": [wrong(made["token"])] * 2000,
            "of one that does not exist": [gone] * 2000,
            "of keys that do not exist": [f"00000000.{new_id(0)}.{mac}" for _ in range(2000)],
            "that are none": ["nonsense"] * 2000,
        }
        for what, tokens in floods.items():
            before = metric(router, "penstock_store_commands_sum")
            for first in range(0, len(tokens), 500):
                batch = [{"name": "approved", "token": token} for token in tokens[first : first + 500]]
                answers = await penstock.request("signal.deliver", batch)
                assert {answer["error"]["code"] for answer in answers} == {"invalid_token"}
            # Ten refusals in ten seconds are recorded; the rest of the room is for due work, pings and the ring.
            assert metric(router, "penstock_store_commands_sum") - before < 100, what
        assert metric(router, "penstock_refused_signals_total") == 8000
        assert await deliver(penstock, made["token"]) == "buffered"

    async def test_no_event_holds_a_token_or_a_payload(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        reply = await suspend(penstock, task)
        await penstock.refused("signal.deliver", {"token": wrong(reply["token"]), "name": "a"})
        assert await deliver(penstock, reply["token"], payload="private") == "resumed"
        await penstock.reaches(task["execution_id"], "ready")
        info = await events(penstock, "satisfied")
        subscription = await trail(penstock, ">")
        seen = b""
        while b"satisfied" not in seen or b"resumed" not in seen:
            seen += (await subscription.next_msg(WAIT_S)).data
        assert reply["token"].rpartition(".")[2].encode() not in seen and b"private" not in seen
        assert info[0]["data"] == {"signals": 1}


class TestRefusals:
    async def test_waitpoints(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        made = await waitpoint(penstock, task)
        error = await penstock.refused("lease.suspend", fence(task) | {"waitpoint_id": NOWHERE})
        assert error.code == "waitpoint_not_found"
        error = await penstock.refused("lease.suspend", fence(task) | {"waitpoint_key": "k"})
        assert (error.code, error.detail) == (
            "waitpoint_pending_use_buffer",
            {"waitpoint_id": made["waitpoint_id"]},
        )

    async def test_fences(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        bodies = {"waitpoint.create": {"waitpoint_key": "k"}, "lease.suspend": {}, "signal.resumed_by": {}}
        for verb, body in bodies.items():
            stale = fence(task) | {"lease_id": "x"} | body
            assert (await penstock.refused(verb, stale)).code == "stale_lease"
            unknown = fence(task) | {"execution_id": NOWHERE} | body
            assert (await penstock.refused(verb, unknown)).code == "execution_not_found"
        assert (await penstock.get(task["execution_id"]))["state"] == "running"
        await penstock.request("lease.complete", fence(task))
        for verb, body in bodies.items():
            error = await penstock.refused(verb, fence(task) | body)
            assert error.code == "execution_not_active" and error.detail["terminal_outcome"] == "completed"

    async def test_only_what_runs_suspends(self, penstock: RunningPenstock) -> None:
        await penstock.create()
        [task] = await penstock.take()
        error = await penstock.refused("lease.suspend", fence(task))
        assert (error.code, error.detail) == ("illegal_transition", {"from": "leased", "to": "suspended"})

    async def test_malformed_requests(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        deep: dict[str, Any] = APPROVED
        for _ in range(16):
            deep = {"any_of": [deep]}
        conditions = [
            {}, {"nme": "a"}, {"name": "a b"}, {"name": "*"}, {"count": 0, "of": [APPROVED]}, {"any_of": []},
            {"name": "a", "all_of": [APPROVED]}, {"count": 2}, deep, "approved",
        ]  # fmt: skip
        for condition in conditions:
            error = await penstock.refused("lease.suspend", fence(task) | {"condition": condition})
            assert error.code == "invalid_request" and "condition" in error.detail["field"], error.detail
        for more in ({"timeout_behavior": "shrug"}, {"timeout_ms": 0}, {"waitpoint_id": "x"}, {"tokn": 1}):
            assert (await penstock.refused("lease.suspend", fence(task) | more)).code == "invalid_request"
        assert (await penstock.refused("signal.deliver", {"name": "a"})).code == "invalid_request"
        assert (await penstock.get(task["execution_id"]))["state"] == "running"

    async def test_payloads_have_a_limit(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        made = await waitpoint(penstock, task)
        body = {"token": made["token"], "name": "a", "payload": "x" * 2**20}
        error = await penstock.refused("signal.deliver", body)
        assert (error.code, error.detail["limit"]) == ("payload_too_large", 2**20)


class TestPublished:
    async def test_applied_once(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        made = await waitpoint(penstock, task)
        headers = {"Penstock_Token": made["token"], "Penstock_Source": "jo"}
        for _ in range(2):  # the stream drops the second message; the waitpoint would too
            await publish(
                penstock, made["waitpoint_id"], "review.one", b' {"a": []} ', Nats_Msg_Id="s1", **headers
            )
        [event] = await events(penstock, "signal_buffered")
        assert event["data"] == {"signal_id": "s1", "name": "review.one", "source": "jo"}
        assert await deliver(penstock, made["token"], "review.one", signal_id="s1") == "duplicate"
        tree = {"count": 2, "of": [{"name": "review.*"}]}
        await suspend(penstock, task, waitpoint_id=made["waitpoint_id"], condition=tree)
        await publish(penstock, made["waitpoint_id"], "review.two", Nats_Msg_Id="s2", **headers)
        again = await penstock.begin()
        items = (await penstock.request("signal.resumed_by", fence(again)))["items"]
        assert [(item["signal_id"], item["payload"]) for item in items] == [("s1", {"a": []}), ("s2", None)]

    async def test_without_an_id_the_place_in_the_stream_is_one(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        reply = await suspend(penstock, task)
        await publish(penstock, reply["waitpoint_id"], "go", Penstock_Token=reply["token"])
        again = await penstock.begin()
        [item] = (await penstock.request("signal.resumed_by", fence(again)))["items"]
        assert item["signal_id"]

    async def test_what_cannot_be_applied_is_a_dead_letter_without_its_token(
        self, penstock: RunningPenstock
    ) -> None:
        task = await running(penstock)
        made = await waitpoint(penstock, task)
        other = await waitpoint(penstock, task, "other")
        to, token = made["waitpoint_id"], made["token"]
        await publish(penstock, to, "a", b"1", Penstock_Token=wrong(token))
        await publish(penstock, to, "b", b"1")
        await publish(penstock, other["waitpoint_id"], "c", b"1", Penstock_Token=token)
        await publish(penstock, NOWHERE, "d", b"1", Penstock_Token=token.replace(to, NOWHERE))
        await publish(penstock, "nonsense", "e", b"1", Penstock_Token=token)
        await publish(penstock, to, "f", b"{", Penstock_Token=token)
        await publish(penstock, to, "g", b'"\xff"', Penstock_Token=token)
        await publish(penstock, to, "h", b'"' + b"x" * 2**20 + b'"', Penstock_Token=token)
        dead = {msg.subject.rpartition(".")[2]: msg for msg in await letters(penstock, 8)}
        reasons = {name: msg.headers["Penstock-Dead-Reason"].split(":")[0] for name, msg in dead.items()}
        assert reasons == dict.fromkeys("abcd", "invalid_token") | dict.fromkeys("efg", "invalid_request") | {
            "h": "payload_too_large"
        }
        mac = token.rpartition(".")[2]
        for msg in dead.values():
            assert mac not in repr(msg.headers) and "Penstock-Token" not in msg.headers
        assert dead["a"].data == b"1"
        assert len(await events(penstock, "token_rejected", 4)) == 4
        told = [(event["id"], event["reason"]) for event in await events(penstock, "signal_rejected", 4)]
        assert sorted(told) == sorted(
            [("0-unknown", "invalid_request"), (to, "payload_too_large")] + [(to, "invalid_request")] * 2
        )
        # Bad signals do not block a good signal.
        await publish(penstock, to, "good", b"1", Penstock_Token=token)
        await events(penstock, "signal_buffered")

    async def test_many_at_once(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        tree = {"count": 500, "of": [{"name": "n"}]}
        reply = await suspend(penstock, task, condition=tree)
        await asyncio.gather(
            *(
                publish(
                    penstock,
                    reply["waitpoint_id"],
                    "n",
                    b"1",
                    Penstock_Token=reply["token"],
                    Nats_Msg_Id=f"{n}",
                )
                for n in range(500)
            )
        )
        again = await penstock.begin()
        items = (await penstock.request("signal.resumed_by", fence(again)))["items"]
        assert sorted(int(item["signal_id"]) for item in items) == list(range(500))

    async def test_published_while_every_router_is_down(self, penstock: RunningPenstock) -> None:
        task = await running(penstock)
        made = await waitpoint(penstock, task)
        await penstock.running["signal-router"].stop()
        await publish(penstock, made["waitpoint_id"], "approved", b"1", Penstock_Token=made["token"])
        await penstock.start_again("signal-router")
        [event] = await events(penstock, "signal_buffered")
        assert event["id"] == made["waitpoint_id"]
        reply = await suspend(penstock, task, waitpoint_id=made["waitpoint_id"], condition=APPROVED)
        assert [item["payload"] for item in reply["items"]] == [1]
