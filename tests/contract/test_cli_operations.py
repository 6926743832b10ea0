"""The commands for operators: lanes, limits, schedules, workers, many executions at once."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
from pathlib import Path

import pytest

import commands
from commands import COMMAND, Cli, clean_environment, told
from running_penstock import WAIT_S, RunningPenstock, fence

UNKNOWN = "0-01234567-89ab-7def-8123-456789abcdef"


async def test_lanes(penstock: RunningPenstock, cli: Cli) -> None:
    execution_id = await penstock.create(lane="slow")
    listed = await cli("lane", "list")
    assert "slow" in listed.out and "active" in listed.out
    paused = await cli("lane", "pause", "slow", "--reason", "the mill stands")
    assert (paused.code, paused.out.strip()) == (0, "paused")

    why, listed = await asyncio.gather(cli("why", execution_id), cli("lane", "list", "--json"))
    assert why.code == 0 and "paused" in why.out and "→" in why.out
    (lane,) = listed.json["items"]
    assert (lane["lane"], lane["status"], lane["depth"]["ready"]) == ("slow", "paused", 1)

    assert (await cli("lane", "drain", "slow")).out.strip() == "draining"
    refused = await cli("submit", "a.job", "--lane", "slow")
    assert refused.code == 1 and refused.err.count("\n") == 1
    assert (await cli("lane", "resume", "slow", "--json")).json["status"] == "active"
    unknown = await cli("lane", "pause", "nowhere")
    assert unknown.code == 1 and "lane_not_found" in unknown.err


async def test_holds_and_signals(penstock: RunningPenstock, cli: Cli) -> None:
    execution_id = await penstock.create()
    await penstock.begin()
    held = await cli("suspend", execution_id, "--reason", "look first")
    assert (held.code, held.out.strip()) == (0, "suspended (operator)")
    assert "operator" in (await cli("why", execution_id)).out
    assert (await cli("resume", execution_id)).out.strip() == "ready"
    assert "illegal_transition" in (await cli("resume", execution_id)).err
    task = await penstock.begin()
    await penstock.request("lease.suspend", fence(task) | {"condition": {"name": "approved"}})
    assert (await cli("send", execution_id, "approved", '{"by": "me"}')).out.startswith("resumed")


async def test_waitpoints(penstock: RunningPenstock, cli: Cli) -> None:
    execution_id = await penstock.create()
    task = await penstock.begin()
    made = await penstock.request("waitpoint.create", fence(task) | {"waitpoint_key": "boss"})
    condition = {"all_of": [{"name": "approved"}, {"name": "paid"}]}
    suspend = {"waitpoint_id": made["waitpoint_id"], "condition": condition}
    await penstock.request("lease.suspend", fence(task) | suspend)
    assert (await cli("send", execution_id, "approved", '{"by": "me"}')).out.startswith("recorded")

    listed = await cli("waitpoint", "list", execution_id)
    assert made["waitpoint_id"] in listed.out and "active" in listed.out and "boss" in listed.out
    assert "paid" in listed.out
    everywhere, none = await asyncio.gather(
        cli("waitpoint", "list", "--json"), cli("waitpoint", "list", "--status", "closed", "--json")
    )
    assert [each["execution_id"] for each in everywhere.json["items"]] == [execution_id]
    assert none.json["items"] == []
    shown = await cli("waitpoint", "get", made["waitpoint_id"])
    assert "approved" in shown.out and made["token"] not in shown.out
    arrived = await cli("waitpoint", "signals", made["waitpoint_id"])
    assert "approved" in arrived.out and '{"by":"me"}' in arrived.out.replace(" ", "")

    await cli("send", execution_id, "paid")
    other = await penstock.begin()
    apart = await penstock.request("waitpoint.create", fence(other) | {"waitpoint_key": "late"})
    closed = await cli("waitpoint", "close", apart["waitpoint_id"], "--reason", "not needed", "--json")
    assert closed.json["status"] == "closed"
    rotated = await cli("waitpoint", "rotate-secret", "--grace", "2h", "--json")
    assert rotated.json["key_id"] != rotated.json["previous_key_id"]
    unknown = await cli("waitpoint", "get", UNKNOWN)
    assert unknown.code == 1 and "waitpoint_not_found" in unknown.err


async def test_mirror_rules(penstock: RunningPenstock, cli: Cli, tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples" / "mirror"
    rule, sample = examples / "taskiq_nats.json", examples / "sample_taskiq.json"
    tested = await cli("mirror", "test", str(rule), "--sample", str(sample), "--json")
    assert tested.json["observation"]["task"] == "mail:send"
    assert "revision 1" in (await cli("mirror", "put", str(rule))).out
    assert "taskiq_tasks" in (await cli("mirror", "list")).out
    assert "core NATS" in (await cli("mirror", "get", "taskiq")).out
    bad = tmp_path / "bad.json"
    bad.write_text(rule.read_text().replace('"jmespath": "task_id"', '"jmespath": "a.["'))
    assert "position" in (await cli("mirror", "put", str(bad))).err
    assert "deleted" in (await cli("mirror", "delete", "taskiq")).out
    assert (await cli("mirror", "get", "taskiq")).code == 1


async def test_triggers(penstock: RunningPenstock, cli: Cli) -> None:
    examples = Path(__file__).parents[2] / "examples" / "mirror"
    trigger, sample = examples / "orders_trigger.json", examples / "sample_order.json"
    tested = await cli("trigger", "test", str(trigger), "--sample", str(sample))
    assert tested.out.startswith("execution.create") and '"order.ship"' in tested.out
    assert "revision 1" in (await cli("trigger", "put", str(trigger))).out
    assert "shop.order.*" in (await cli("trigger", "list")).out
    assert "core NATS" in (await cli("trigger", "get", "orders")).out
    assert "deleted" in (await cli("trigger", "delete", "orders")).out


async def test_steering(penstock: RunningPenstock, cli: Cli) -> None:
    later = await penstock.create(run_at=4_000_000_000_000, tags={"a": "1"})
    why = await cli("why", later, "--json")
    assert why.json["waiting_for"]["kind"] == "time"
    await asyncio.gather(cli("priority", later, "7"), cli("tag", later, "b=2", "c=3"))
    record = await penstock.get(later)
    assert (record["priority"], record["tags"]) == (7, {"b": "2", "c": "3"})
    assert (await cli("run-now", later)).out.strip() == "ready"
    assert (await cli("tag", later, "novalue")).code == 2

    task = await penstock.begin()
    assert (await cli("revoke", later, "--reason", "stuck")).out.strip() == "ready"
    early = await cli("replay", later)
    assert early.code == 1 and early.out == ""
    task = await penstock.begin()
    await penstock.request("lease.complete", fence(task))

    again = await cli("replay", later, '{"n": 2}')
    record = await penstock.get(again.out.strip())
    assert (record["replay_of"], record["input"]) == (later, {"n": 2})
    over = await cli("why", later)
    assert over.code == 0 and over.out.startswith("completed")
    for command in ("why", "replay", "run-now", "revoke"):
        said = await cli(command, UNKNOWN)
        assert said.code == 1 and "execution_not_found" in said.err


async def test_limits(penstock: RunningPenstock, cli: Cli) -> None:
    made, quota = await asyncio.gather(
        cli("budget", "create", "tokens=800/1000", "cents=5", "--on-hard", "fail", "--reset-every", "1d"),
        cli("quota", "create", "--per-window", "3", "--window", "1m", "--concurrent", "2"),
    )
    budget_id, quota_id = made.out.strip(), quota.out.strip()
    budget = await penstock.request("budget.get", {"budget_id": budget_id})
    assert (budget["on_hard"], budget["reset_every_ms"]) == ("fail", 86_400_000)
    assert budget["dimensions"]["tokens"] == {"used": 0, "soft": 800, "hard": 1000}

    more = await cli("budget", "replenish", budget_id, "cents=10", "--json")
    assert more.json["dimensions"]["cents"]["hard"] == 15
    shown, used = await asyncio.gather(cli("budget", "get", budget_id), cli("quota", "get", quota_id))
    assert "tokens" in shown.out and "1000" in shown.out and "free again" in shown.out
    assert "0 of 3 in 0:01:00" in used.out and "0 of 2" in used.out
    for command in (
        ("budget", "reset", budget_id),
        ("budget", "delete", budget_id),
        ("quota", "delete", quota_id),
    ):
        assert (await cli(*command)).code == 0
    gone = await cli("budget", "get", budget_id)
    assert gone.code == 1 and "budget_not_found" in gone.err
    wrong, none = await asyncio.gather(cli("budget", "create", "tokens=many"), cli("budget", "create"))
    assert wrong.code == 2 and "many" in wrong.err
    assert none.code == 1 and "dimensions" in none.err


async def test_schedules(penstock: RunningPenstock, cli: Cli) -> None:
    weekly, often, once = await asyncio.gather(
        cli("schedule", "create", "a.job", "[1]", "--cron", "0 6 * * 1", "--timezone", "Europe/Berlin"),
        cli("schedule", "create", "b.job", "--every", "90s", "--count", "2", "--lane", "slow"),
        cli("schedule", "create", "c.job", "--at", "2100-01-01T00:00+00:00", "--misfire", "skip"),
    )
    ids = [said.out.strip() for said in (weekly, often, once)]
    got = [await penstock.request("schedule.get", {"schedule_id": each}) for each in ids]
    assert (got[0]["cron"], got[0]["timezone"], got[0]["execution"]["input"]) == (
        "0 6 * * 1",
        "Europe/Berlin",
        [1],
    )
    assert (got[1]["every_ms"], got[1]["count"], got[1]["execution"]["lane"]) == (90_000, 2, "slow")
    assert (got[2]["next_at"], got[2]["misfire"]) == (4_102_444_800_000, "skip")

    listed = await cli("schedule", "list")
    assert all(each in listed.out for each in ids) and "0 6 * * 1 (Europe/Berlin)" in listed.out
    paused = await cli("schedule", "pause", ids[1], "--json")
    assert paused.json["status"] == "paused"
    shown = await cli("schedule", "get", ids[1])
    assert "every 0:01:30, 2 times" in shown.out and "paused" in shown.out
    assert (await cli("schedule", "resume", ids[1])).code == 0
    times = await cli("schedule", "times", ids[1], "--json")
    assert len(times.json["times"]) == 2 and times.json["times"][1] - times.json["times"][0] == 90_000
    triggered = await penstock.get((await cli("schedule", "trigger", ids[0])).out.strip())
    assert (triggered["kind"], triggered["input"]) == ("a.job", [1])
    changed = await cli("schedule", "update", ids[0], "[2]", "--every", "60s", "--priority", "5", "--json")
    assert (changed.json["every_ms"], changed.json["cron"], changed.json["execution"]["input"]) == (
        60_000,
        None,
        [2],
    )
    assert (changed.json["execution"]["kind"], changed.json["execution"]["priority"]) == ("a.job", 5)
    assert (await cli("schedule", "delete", ids[1])).code == 0
    assert "schedule_not_found" in (await cli("schedule", "get", ids[1])).err

    none, never = await asyncio.gather(
        cli("schedule", "create", "a.job"), cli("schedule", "create", "a.job", "--cron", "0 0 30 2 *")
    )
    assert none.code == 2 and "--cron" in none.err
    assert never.code == 1 and "cron" in never.err


async def test_top(penstock: RunningPenstock, cli: Cli) -> None:
    await penstock.create(lane="slow")
    await penstock.request("worker.register", {"worker_id": "w7", "lanes": ["slow"], "capabilities": ["gpu"]})
    once, looked = await asyncio.gather(cli("top"), cli("top", "--once", "--json"))
    assert once.code == 0 and "slow" in once.out and "w7" in once.out and "gpu" in once.out
    assert [lane["lane"] for lane in looked.json["lanes"]] == ["slow"]
    assert [worker["worker_id"] for worker in looked.json["workers"]] == ["w7"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
async def test_top_on_a_terminal(penstock: RunningPenstock) -> None:
    """`penstock top` redraws until Ctrl-C, which ends it with exit code 0."""
    await penstock.create(lane="slow")
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "top", "--interval", "0.05"),
        env={**clean_environment(), **told(penstock), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        # A shell starts background jobs with SIGINT ignored, and these tests may run in such a job.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    drawn = bytearray()
    ended = asyncio.get_running_loop().create_future()

    def read() -> None:
        try:
            drawn.extend(os.read(ours, 65536))
        except OSError:  # the process has closed its end
            asyncio.get_running_loop().remove_reader(ours)
            ended.set_result(None)

    async def seen() -> bytes:
        return bytes(drawn)

    asyncio.get_running_loop().add_reader(ours, read)
    await penstock.until(seen, lambda text: text.count(b"slow") >= 3, "three pictures")
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    await asyncio.wait_for(ended, WAIT_S)
    os.close(ours)
    assert b"Traceback" not in drawn


async def test_submit_many(penstock: RunningPenstock, cli: Cli, tmp_path: Path) -> None:
    big = 18446744073709551615
    lines = [json.dumps({"kind": "a.job", "input": {"n": n, "big": big}}) for n in range(2500)]
    lines[9] = ""
    lines[10] = "{nonsense"
    lines[11] = json.dumps({"kind": "a.job", "bogus": 1})
    lines[12] = json.dumps({"input": 1})
    lines[13] = json.dumps({"kind": "b.job", "lane": "own"})
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines) + "\n")
    said = await cli("submit-many", str(tmp_path / "jobs.jsonl"), "--lane", "bulk", "--tag", "run=1")
    assert said.code == 1 and said.out.strip() == "2496 submitted, 3 refused"
    assert "line 11: invalid_request" in said.err and "line 12: invalid_request" in said.err
    assert "bogus" in said.err and "line 13: " in said.err and "3 of 2499 lines" in said.err
    lanes = {lane["lane"]: lane for lane in (await penstock.request("lane.list"))["items"]}
    assert (lanes["bulk"]["depth"]["ready"], lanes["own"]["depth"]["ready"]) == (2495, 1)
    (own,) = (await penstock.request("execution.list", {"lane": "own"}))["items"]
    assert own["tags"] == {"run": "1"}
    (newest,) = (await penstock.request("execution.list", {"lane": "bulk", "limit": 1}))["items"]
    assert newest["input"]["big"] == big


async def test_submit_many_inputs_twice(penstock: RunningPenstock, cli: Cli) -> None:
    inputs = '{"n": 1}\n\n[2]\n'
    first = await cli("submit-many", "-", "--kind", "a.job", "--key", "k", "--json", stdin=inputs)
    assert first.code == 0, first.err
    answers = [json.loads(line) for line in first.out.splitlines()]
    assert [(each["line"], each["duplicate"]) for each in answers] == [(1, False), (3, False)]
    records = [await penstock.get(each["execution_id"]) for each in answers]
    assert [record["input"] for record in records] == [{"n": 1}, [2]]

    again = await cli("submit-many", "-", "--kind", "a.job", "--key", "k", "--json", stdin=inputs + "{\n")
    assert again.code == 1
    *same, bad = [json.loads(line) for line in again.out.splitlines()]
    assert same == [{**each, "duplicate": True} for each in answers]
    assert (bad["line"], bad["error"]["code"]) == (4, "invalid_request")
    assert (await cli("submit-many", "/no/such/file")).code == 2
    assert (await cli("submit-many", "-")).out.strip() == "0 submitted"


WORKER = """
from penstock import Task, Worker
jobs = Worker("nats://127.0.0.1:4222", lanes=["default", "slow"], version="7.1")
@jobs.handler("double")
async def double(task: Task, n: int) -> int:
    await task.progress(50, "half")
    await task.append_frame("number", {"n": n})
    return 2 * n
"""


async def test_a_worker(penstock: RunningPenstock, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "house_jobs.py").write_text(WORKER)
    running = asyncio.create_task(cli("worker", "house_jobs:jobs", cwd=tmp_path))
    doubled = await cli("submit", "double", '{"n": 21}', "--wait")
    assert (doubled.code, doubled.json) == (0, 42)
    (info,) = (await cli("workers", "list", "--status", "active", "--json")).json["items"]
    assert (info["lanes"], info["version"]) == (["default", "slow"], "7.1")
    assert info["worker_id"] in (await cli("workers", "list", "--lane", "slow")).out
    drained = await cli("workers", "drain", info["worker_id"])
    assert drained.out.strip() == "draining"
    ended = await running
    assert ended.code == 0 and "takes work of default, slow" in ended.err


async def test_a_worker_that_is_none(penstock: RunningPenstock, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "house_jobs.py").write_text(WORKER)
    (tmp_path / "house_broken.py").write_text("import json\nnumber = 1 / 0\n")
    missing, unnamed, broken = await asyncio.gather(
        cli("worker", "house_none:worker", cwd=tmp_path),
        cli("worker", "house_jobs", cwd=tmp_path),
        commands.penstock("worker", "house_broken", cwd=tmp_path),
    )
    assert missing.code == 2 and "house_none" in missing.err
    assert unnamed.code == 2 and "it has jobs" in unnamed.err
    assert broken.code == 1 and "house_broken.py" in broken.err
    assert broken.err.splitlines()[-1].startswith("penstock: house_broken cannot be imported: ZeroDivision")


async def test_watch_shows_frames_and_progress(penstock: RunningPenstock, cli: Cli) -> None:
    execution_id = await penstock.create()
    task = await penstock.begin()
    await penstock.request("lease.progress", {**fence(task), "pct": 50, "message": "half"})
    await penstock.request("lease.frame", {**fence(task), "frame_type": "line", "payload": {"n": 1}})
    told_people = asyncio.create_task(cli("watch", execution_id))
    told_scripts = asyncio.create_task(cli("watch", execution_id, "--json"))
    await asyncio.sleep(0)
    await penstock.request("lease.frame", {**fence(task), "frame_type": "line", "payload": "two"})
    await penstock.request("lease.complete", {**fence(task), "result": "done"})
    people, scripts = await told_people, await told_scripts
    assert people.code == scripts.code == 0
    assert 'line {"n":1}' in people.out and 'line "two"' in people.out
    lines = [json.loads(line) for line in scripts.out.splitlines()]
    assert [line["payload"] for line in lines if "frame_type" in line] == [{"n": 1}, "two"]
    assert lines[-1]["result"] == "done"


async def test_bulk_changes_and_searches(penstock: RunningPenstock, cli: Cli) -> None:
    asked = [await penstock.create(kind="mail.send", lane="post", tags={"shop": "eu"}) for _ in range(3)]
    other = await penstock.create(kind="sms.send", lane="post")
    found, narrow, nothing = await asyncio.gather(
        cli("search", "--kind", "mail.*", "--state", "ready", "--state", "running", "--json"),
        cli("search", "--text", "EU", "--created-from", "2020-01-01T00:00:00.000Z", "--limit", "2"),
        cli("search", "--created-until", "2020-01-01T00:00"),
    )
    assert [each["execution_id"] for each in found.json["items"]] == asked[::-1]
    assert asked[2] in narrow.out and asked[0] not in narrow.out and "--cursor" in narrow.err
    assert nothing.code == 0 and asked[0] not in nothing.out

    begun = await cli("bulk", "start", "cancel", "--kind", "mail.*", "--reason", "no stamps")
    bulk_id = begun.out.strip()
    await penstock.until(
        lambda: penstock.request("bulk.get", {"bulk_id": bulk_id}),
        lambda seen: seen["status"] == "finished",
        "its end",
    )
    shown, listed, stopped = await asyncio.gather(
        cli("bulk", "get", bulk_id), cli("bulk", "list", "--json"), cli("bulk", "stop", bulk_id, "--json")
    )
    assert "finished" in shown.out and re.search(r"done +3 *\n", shown.out)
    assert [each["bulk_id"] for each in listed.json["items"]] == [bulk_id]
    assert stopped.json["status"] == "finished"
    assert (await penstock.get(other))["state"] == "ready"
    task = await penstock.begin(lanes=["post"])
    await penstock.request("lease.suspend", fence(task) | {"condition": {"name": "paid"}})
    signal = await cli(
        "bulk", "start", "signal", "--kind", "sms.send", "--name", "paid", "--payload", "[1]", "--json"
    )
    await penstock.reaches(other, "ready")
    await penstock.begin(lanes=["post"])
    revoke = await cli("bulk", "start", "revoke", "--kind", "sms.send", "--reason", "its host is going")
    await penstock.reaches(other, "ready")
    assert (signal.json["action"], signal.json["name"], revoke.code) == ("signal", "paid", 0)
    wrong, none = await asyncio.gather(
        cli("bulk", "start", "explode"), cli("bulk", "start", "set-tags", "--lane", "post")
    )
    assert wrong.code == 2 and "explode" in wrong.err
    assert none.code == 1 and "tags" in none.err


async def test_what_happened_and_what_holds_back(penstock: RunningPenstock, cli: Cli) -> None:
    await penstock.request(
        "worker.register",
        {
            "worker_id": "w",
            "lanes": ["a"],
            "kinds": ["ship"],
            "schemas": {"ship": {"input": {"type": "object"}}},
        },
    )
    quota = await penstock.request("quota.create", {"max_per_window": 1, "window_ms": 3_600_000})
    for _ in range(2):
        await penstock.create(kind="ship", lane="a", quota_id=quota["quota_id"])
    task = await penstock.begin(lanes=["a"])
    await penstock.request(
        "lease.fail", fence(task) | {"reason": "order 4 is gone", "category": "oops", "retryable": False}
    )
    # A limit holds work back once a worker has asked for that work in vain.
    assert await penstock.take(1, lanes=["a"], wait_ms=0) == []
    blocked, elsewhere = await asyncio.gather(
        cli("limits", "blocked"), cli("limits", "blocked", "--lane", "b", "--json")
    )
    assert re.search(rf"quota +{quota['quota_id']} +1 +a", blocked.out)
    assert elsewhere.json["items"] == []

    async def grouped() -> str:
        return (await cli("failures", "--kind", "ship")).out

    failures = await penstock.until(grouped, lambda seen: "oops" in seen, "the group")
    assert "order <n> is gone" in failures
    stats, kinds = await asyncio.gather(cli("lane", "stats", "a"), cli("kinds"))
    assert "24 h" in stats.out and "created" in stats.out
    assert "ship" in kinds.out and '{"type":"object"}' in kinds.out
