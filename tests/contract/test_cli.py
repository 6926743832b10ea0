"""The commands against the real services: their output and their exit codes."""

import asyncio
import json
from pathlib import Path

import msgspec

from commands import Cli
from running_penstock import RunningPenstock, fence


async def test_submit_get_list(penstock: RunningPenstock, cli: Cli, tmp_path: Path) -> None:
    payload = '{"big":18446744073709551615,"empty":[],"a":1}'
    submitted = await cli(
        "submit", "a.job", payload, "--tag", "team=x", "--priority", "3", "--idempotency-key", "k"
    )
    assert submitted.code == 0 and submitted.err == ""
    execution_id = submitted.out.strip()

    record = await cli("get", execution_id, "--json")
    assert f'"input":{payload}' in record.out
    assert (record.json["tags"], record.json["priority"]) == ({"team": "x"}, 3)
    shown = await cli("get", execution_id)
    assert "a.job" in shown.out and "ready" in shown.out and "team=x" in shown.out

    again = await cli(
        "--json", "submit", "a.job", payload, "--tag", "team=x", "--priority", "3", "--idempotency-key", "k"
    )
    assert again.json == {"execution_id": execution_id, "state": "ready", "duplicate": True}

    (tmp_path / "input.json").write_text("[1, 2]")
    from_file, from_stdin = await asyncio.gather(
        cli("submit", "b.job", f"@{tmp_path}/input.json"), cli("submit", "b.job", "-", stdin="3\n")
    )
    records = [await penstock.get(said.out.strip()) for said in (from_file, from_stdin)]
    assert [record["input"] for record in records] == [[1, 2], 3]

    listed = await cli("list", "--kind", "b.job", "--json")
    assert {item["execution_id"] for item in listed.json["items"]} == {r["execution_id"] for r in records}
    first = await cli("list", "--limit", "1", "--json")
    rest = await cli("list", "--cursor", first.json["cursor"], "--json")
    assert len(first.json["items"]) == 1 and len(rest.json["items"]) == 2
    assert execution_id in (await cli("list", "--state", "ready")).out


async def test_submit_and_wait(penstock: RunningPenstock, cli: Cli) -> None:
    async def work() -> None:
        task = await penstock.begin()
        await penstock.request("lease.complete", {**fence(task), "result": msgspec.Raw(b'{"sum": 3.0}')})
        task = await penstock.begin()
        failed = {**fence(task), "reason": "it is broken", "category": "broken"}
        await penstock.request("lease.fail", failed)

    working = asyncio.create_task(work())
    good = await cli("submit", "a.job", "--wait")
    assert (good.code, good.out) == (0, '{"sum": 3.0}\n')
    bad = await cli("submit", "a.job", "--wait")
    assert bad.code == 1 and bad.out == "" and "failed (broken): it is broken" in bad.err
    await working
    late = await cli("submit", "a.job", "--wait", "--wait-s", "0.1")
    assert late.code == 1 and "not done within 0.1 s" in late.err


async def test_errors_of_the_contract_are_one_line(cli: Cli) -> None:
    unknown = "0-01234567-89ab-7def-8123-456789abcdef"
    for command in (
        ("get",),
        ("cancel",),
        ("watch",),
        ("flow", "get"),
        ("flow", "start"),
        ("flow", "cancel"),
    ):
        said = await cli(*command, unknown)
        assert said.code == 1 and said.out == ""
        assert said.err.count("\n") == 1 and "_not_found: " in said.err
    said = await cli("get", unknown, "--json")
    assert said.code == 1 and said.json["error"]["code"] == "execution_not_found"
    said = await cli("submit", "a.job", "-o", "bogus=1")
    assert said.code == 1 and "invalid_request" in said.err and "bogus" in said.err


async def test_cancel(penstock: RunningPenstock, cli: Cli) -> None:
    execution_id = await penstock.create()
    said = await cli("cancel", execution_id, "--reason", "no need")
    assert (said.code, said.out.strip()) == (0, "canceled")
    assert (await penstock.get(execution_id))["state"] == "canceled"


async def test_watch_an_execution(penstock: RunningPenstock, cli: Cli) -> None:
    execution_id = await penstock.create()
    watching = asyncio.create_task(cli("watch", execution_id, "--json"))
    task = await penstock.begin()
    await penstock.request("lease.progress", {**fence(task), "pct": 50, "message": "half"})
    await penstock.request("lease.complete", {**fence(task), "result": "done"})
    said = await watching
    assert said.code == 0
    *events, record = [json.loads(line) for line in said.out.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["event"], events[-1]["event"]) == ("created", "completed")
    assert (record["state"], record["result"]) == ("completed", "done")


async def test_flows(penstock: RunningPenstock, cli: Cli, tmp_path: Path) -> None:
    graph = {
        "goal": "two steps",
        "members": [{"key": "a", "kind": "a.job", "input": 2**63}, {"key": "b", "kind": "b.job"}],
        "edges": [{"from": "a", "to": "b", "data": "a"}],
    }
    (tmp_path / "flow.json").write_text(json.dumps(graph))
    created = await cli("flow", "create", str(tmp_path / "flow.json"))
    flow_id = created.out.strip()
    assert (await cli("flow", "get", flow_id, "--json")).json["status"] == "created"
    members = {m["key"]: m for m in (await cli("flow", "graph", flow_id, "--json")).json["members"]}
    assert set(members) == {"a", "b"}
    assert (await cli("flow", "start", flow_id)).out.strip() == "running"

    watching = asyncio.create_task(cli("watch", flow_id))
    for _ in graph["members"]:
        task = await penstock.begin()
        await penstock.request("lease.complete", {**fence(task), "result": 1})
    watched = await watching
    assert watched.code == 0 and "finished: 2 completed" in watched.out
    shown = await cli("flow", "graph", flow_id)
    assert members["b"]["execution_id"] in shown.out and "completed" in shown.out
    assert flow_id in (await cli("flow", "list", "--status", "finished")).out
    assert [s["task"] for s in (await cli("flow", "steps", flow_id, "--json")).json["items"]] == ["a", "b"]

    second = (await cli("flow", "create", "-", "--start", stdin=json.dumps(graph))).out.strip()
    cancelled = await cli("flow", "cancel", second, "--wait", "--json")
    assert (cancelled.code, cancelled.json["result"]) == (0, "cancelled")
    assert (await cli("watch", second)).code == 1


async def test_signals(penstock: RunningPenstock, cli: Cli) -> None:
    for how in ((), ("--publish",)):
        execution_id = await penstock.create()
        task = await penstock.begin()
        suspended = await penstock.request(
            "lease.suspend", {**fence(task), "condition": {"name": "approved"}, "waitpoint_key": "w"}
        )
        said = await cli("signal", "-", "approved", '{"by": "me"}', *how, stdin=suspended["token"] + "\n")
        assert said.code == 0, said.err
        await penstock.reaches(execution_id, "ready")
        (task,) = await penstock.take(1, start=True)
        got = await penstock.request("signal.resumed_by", fence(task))
        assert [(s["name"], s["payload"]) for s in got["items"]] == [("approved", {"by": "me"})]
    wrong = await cli("signal", suspended["token"][:-4] + "0000", "approved")
    assert wrong.code == 1 and "invalid_token" in wrong.err and suspended["token"][:-4] not in wrong.err


async def test_audit_and_doctor(penstock: RunningPenstock, cli: Cli) -> None:
    execution_id = await penstock.create()
    task = await penstock.begin()
    await penstock.request("lease.complete", fence(task))

    async def events() -> list[str]:
        said = await cli("audit", "tail", "--id", execution_id, "--json")
        return [json.loads(line)["event"] for line in said.out.splitlines()]

    seen = await penstock.until(events, lambda names: names[-1:] == ["completed"], "the audit trail")
    assert seen[0] == "created"
    newest = await cli("audit", "tail", "-n", "1", "--entity", "execution")
    assert newest.out.count("\n") == 1 and "completed" in newest.out
    verified = await cli("audit", "verify")
    assert verified.code == 0 and "the chain is whole" in verified.out

    valkey = penstock.settings.valkey_url
    checked = await cli("doctor", "--valkey", valkey, "--json")
    failed = [check for check in checked.json["checks"] if check["ok"] is False]
    assert [check["name"] for check in failed] == ["Valkey maxmemory-policy"] * len(failed)
    elsewhere = await cli("doctor", "--root", "nobody")
    assert elsewhere.code == 1 and "penstock-scheduler" in elsewhere.out
