"""Mirror rules: messages of other systems become observations, without code and without touching those systems."""

import asyncio
import importlib
from typing import Any

import msgspec
import pytest

from penstock import audit
from penstock.bus import streams
from penstock.runtime import start
from running_penstock import RunningPenstock


def rule(prefix: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "ci",
        "subject": f"{prefix}.build.*.>",
        "flow": {
            "key": {"token": 3},
            "create": {
                "controller_id": "ci",
                "owner": "ci",
                "goal": "build {key}",
                "completion": "on_task",
                "completion_task": "deploy",
            },
        },
        "run_id": {"jmespath": "job.id"},
        "task": {"jmespath": "job.name"},
        "status": {
            "jmespath": "state",
            "map": {"queued": "pending", "started": "running", "ok": "succeeded", "error": "failed"},
        },
        "result": {"jmespath": "artifacts"},
        "observed_at": {"header": "X-At"},
        "child_session_key": {"const": "x"},
        **more,
    }


def job(name: str, state: str, **more: Any) -> bytes:
    return msgspec.json.encode({"job": {"id": f"id-{name}", "name": name}, "state": state, **more})


@pytest.fixture
def prefix(penstock: RunningPenstock) -> str:
    """Return the subject prefix of the other system."""
    return f"other-{penstock.root}"


async def put(penstock: RunningPenstock, body: dict[str, Any]) -> dict[str, Any]:
    return await penstock.request("mirror_rule.put", body)


async def seen(penstock: RunningPenstock, count: int) -> dict[str, Any]:
    return await penstock.until(
        lambda: penstock.request("mirror_rule.get", {"name": "ci"}), lambda found: found["seen"] >= count
    )


async def mirrored(penstock: RunningPenstock) -> list[dict[str, Any]]:
    flows = (await penstock.request("flow.list", {"owner": "ci"}))["items"]
    return sorted(flows, key=lambda flow: flow["goal"])


async def followed(penstock: RunningPenstock, prefix: str) -> None:
    """Wait until the rule is followed, because core NATS keeps no messages for later."""
    await penstock.until(
        lambda: probe(penstock, prefix), lambda found: found["dropped"] > 0, "the rule is followed"
    )


async def probe(penstock: RunningPenstock, prefix: str) -> dict[str, Any]:
    await penstock.nats.publish(f"{prefix}.build.probe.x", b"{}")
    await asyncio.sleep(0.05)
    return await penstock.request("mirror_rule.get", {"name": "ci"})


async def test_messages_become_observations(penstock: RunningPenstock, prefix: str) -> None:
    made = await put(penstock, rule(prefix))
    assert (made["revision"], made["seen"], made["flow"]["key"]) == (1, 0, {"token": 3})
    await followed(penstock, prefix)
    for state, at in (("queued", "10"), ("started", "2026-11-28T00:00:00Z"), ("ok", "1800000000000")):
        await penstock.nats.publish(
            f"{prefix}.build.42.linux", job("compile", state, artifacts=["a", 2**60]), headers={"X-At": at}
        )
    [flow] = await penstock.until(lambda: mirrored(penstock), lambda flows: len(flows) == 1)
    assert (flow["goal"], flow["status"], flow["kind"]) == ("build 42", "running", "mirrored")

    async def steps() -> list[dict[str, Any]]:
        return (await penstock.request("flow.steps", {"flow_id": flow["flow_id"]}))["items"]

    [step] = await penstock.until(steps, lambda found: bool(found) and found[0]["status"] == "succeeded")
    assert (step["run_id"], step["task"], step["child_session_key"]) == ("id-compile", "compile", "x")
    assert (step["result"], step["observed_at"]) == (["a", 2**60], 1_800_000_000_000)
    await penstock.nats.publish(f"{prefix}.build.42.linux", job("deploy", "error"))
    await penstock.until(lambda: mirrored(penstock), lambda flows: flows[0]["status"] == "failed")


async def test_many_observers_make_one_flow_for_each_key(penstock: RunningPenstock, prefix: str) -> None:
    build = importlib.import_module("penstock_mirror_observer.service").build
    for n in range(2):
        settings = msgspec.structs.replace(penstock.settings, instance=f"observer-{n}")
        penstock.running[settings.instance] = await start("mirror-observer", build, settings)
    await penstock.js.add_stream(name=prefix.upper(), subjects=[f"{prefix}.>"])
    await put(penstock, rule(prefix, stream=prefix.upper()))
    for n in range(200):
        await penstock.js.publish(f"{prefix}.build.k{n % 5}.x", job(f"t{n}", "started"))
    await seen(penstock, 200)
    flows = await mirrored(penstock)
    assert [flow["goal"] for flow in flows] == [f"build k{n}" for n in range(5)]
    assert [flow["counts"] for flow in flows] == [{"running": 40}] * 5
    await penstock.js.delete_stream(prefix.upper())


async def test_a_stream_is_followed_from_where_it_stopped(penstock: RunningPenstock, prefix: str) -> None:
    await penstock.js.add_stream(name=prefix.upper(), subjects=[f"{prefix}.>"])
    await penstock.js.publish(f"{prefix}.build.1.x", job("a", "ok"))  # published before the rule exists
    await put(penstock, rule(prefix, stream=prefix.upper()))
    await seen(penstock, 1)
    await penstock.services["mirror-observer"].stop()
    for name in ("b", "c"):
        await penstock.js.publish(f"{prefix}.build.1.x", job(name, "ok"))
    await penstock.start_service("mirror-observer")
    found = await seen(penstock, 3)
    assert (found["seen"], found["applied"], found["dropped"]) == (3, 3, 0)
    assert (await penstock.js.stream_info(prefix.upper())).state.messages == 3
    await penstock.js.delete_stream(prefix.upper())


async def test_a_deleted_rule_leaves_nothing_on_the_stream(penstock: RunningPenstock, prefix: str) -> None:
    name = prefix.upper()
    await penstock.js.add_stream(name=name, subjects=[f"{prefix}.>"])

    async def durables() -> int:
        return len(await penstock.js.consumers_info(name))

    await put(penstock, rule(prefix, stream=name))
    await penstock.until(durables, lambda count: count == 1)
    await put(penstock, rule(prefix, stream=name, subject=f"{prefix}.other"))  # needs another durable
    await penstock.until(durables, lambda count: count == 1)
    await penstock.request("mirror_rule.delete", {"name": "ci"})
    await penstock.until(durables, lambda count: count == 0)
    await penstock.js.delete_stream(name)


async def test_the_name_of_a_deleted_rule_is_taken_again(penstock: RunningPenstock, prefix: str) -> None:
    await put(penstock, rule(prefix, task={"const": "old"}))
    await followed(penstock, prefix)
    await penstock.request("mirror_rule.delete", {"name": "ci"})
    found = await put(penstock, rule(prefix, task={"const": "new"}))
    assert (found["revision"], found["seen"]) == (2, 0)

    async def tasks() -> set[str]:
        await penstock.nats.publish(f"{prefix}.build.1.x", job("a", "started"))
        flows = await mirrored(penstock)
        found = await penstock.request("flow.steps", {"flow_id": flows[-1]["flow_id"]}) if flows else {}
        return {step["task"] for step in found.get("items", [])}

    await penstock.until(tasks, lambda seen: seen == {"new"}, "the new rule is followed")
    await penstock.request("mirror_rule.delete", {"name": "ci"})
    name = streams.stream_name(penstock.root, streams.AUDIT)
    told = f"{penstock.root}.audit.default.mirror_rule.deleted"
    await penstock.until(
        lambda: penstock.js.stream_info(name, subjects_filter=told),
        lambda info: (info.state.subjects or {}).get(told) == 2,
        "both deletions in the trail",
    )
    report = await audit.verify(penstock.nats, name)
    assert report.ok, report.sentence()


async def test_a_stream_that_is_gone_keeps_no_other_rule_waiting(
    penstock: RunningPenstock, prefix: str
) -> None:
    name = prefix.upper()
    await penstock.js.add_stream(name=name, subjects=[f"{prefix}.stream.>"])
    await put(penstock, rule(prefix, name="a-first", subject=f"{prefix}.stream.>", stream=name))
    await penstock.services["mirror-observer"].stop()
    await penstock.js.delete_stream(name)
    await penstock.start_service("mirror-observer")
    await put(penstock, rule(prefix))
    await followed(penstock, prefix)


async def test_what_is_no_observation_is_dropped_and_told(penstock: RunningPenstock, prefix: str) -> None:
    body = rule(prefix)
    del body["flow"]["create"]
    await put(penstock, body)
    await followed(penstock, prefix)
    before = (await penstock.request("mirror_rule.get", {"name": "ci"}))["dropped"]
    await penstock.nats.publish(f"{prefix}.build.9.x", job("a", "exploded"))
    await penstock.nats.publish(f"{prefix}.build.9.x", job("a", "ok"))
    found = await penstock.until(
        lambda: penstock.request("mirror_rule.get", {"name": "ci"}),
        lambda each: each["dropped"] >= before + 2,
    )
    assert found["last_error"] == "flow.key: no flow has '9', and the rule makes none"
    assert await mirrored(penstock) == []


async def test_a_rule_can_be_tried(penstock: RunningPenstock, prefix: str) -> None:
    sample = {
        "subject": f"{prefix}.build.7.x",
        "headers": {"X-At": "5"},
        "data": {"job": {"id": 1, "name": "n"}, "state": "ok", "artifacts": None},
    }
    asked = {"rule": rule(prefix), "sample": sample}
    found = await penstock.request("mirror_rule.test", asked)
    assert (found["key"], found["dropped"]) == ("7", None)
    assert found["observation"] == {
        "run_id": "1",
        "task": "n",
        "status": "succeeded",
        "result": None,
        "observed_at": 5,
        "child_session_key": "x",
    }
    sample["data"] = {"state": "ok"}
    found = await penstock.request("mirror_rule.test", asked)
    assert (found["observation"], found["dropped"]) == (None, "run_id: there is none")
    assert await mirrored(penstock) == []
    assert (await penstock.request("mirror_rule.list"))["items"] == []


async def test_rules_are_kept_replaced_listed_and_deleted(penstock: RunningPenstock, prefix: str) -> None:
    for name in ("b", "a", "c"):
        await put(penstock, rule(prefix, name=name))
    assert (await put(penstock, rule(prefix, name="b", subject=f"{prefix}.other")))["revision"] == 2
    page = await penstock.request("mirror_rule.list", {"limit": 2})
    rest = await penstock.request("mirror_rule.list", {"limit": 2, "cursor": page["cursor"]})
    assert [each["name"] for each in page["items"] + rest["items"]] == ["a", "b", "c"]
    assert (await penstock.request("mirror_rule.delete", {"name": "b"}))["subject"] == f"{prefix}.other"
    for verb in ("mirror_rule.get", "mirror_rule.delete"):
        assert (await penstock.refused(verb, {"name": "b"})).code == "mirror_rule_not_found"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"subject": "{root}.audit.>"}, "subject"),
        ({"subject": ">"}, "subject"),
        ({"subject": "*.x"}, "subject"),
        ({"subject": "a.>.b"}, "subject"),
        ({"stream": "NOT_THERE"}, "stream"),
        ({"run_id": {"jmespath": "a.[b"}}, "run_id.jmespath"),
        ({"run_id": {}}, "run_id"),
        ({"run_id": {"token": 1, "const": "x"}}, "run_id"),
        ({"status": {"const": "a", "map": {"a": "nothing"}}}, "status.map[...]"),
        ({"result": {"const": "x" * 70_000}}, "name"),
        ({"flow": {"id": {"token": 1}, "key": {"token": 1}}}, "flow"),
        ({"flow": {"id": {"token": 1}, "create": {"controller_id": "c", "owner": "o"}}}, "flow.create"),
    ],
)
async def test_bad_rules(penstock: RunningPenstock, prefix: str, change: dict[str, Any], field: str) -> None:
    body = rule(prefix, **change)
    body["subject"] = body["subject"].replace("{root}", penstock.root)
    error = await penstock.refused("mirror_rule.put", body)
    assert (error.code, error.detail["field"]) == ("invalid_request", field)
    if "jmespath" in field:
        assert "position" in error.message
    assert (await penstock.request("mirror_rule.list"))["items"] == []
