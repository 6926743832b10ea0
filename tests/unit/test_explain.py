"""The sentence that explains why an execution does not run now, for every reason: a pure function of facts."""

from typing import Any

import pytest

from penstock.machine.conditions import missing_signals
from penstock_scheduler.explaining.ready import Worker
from penstock_scheduler.explaining.sentences import explain

NOW = 1_800_000_000_000  # 2027-01-15 08:00:00 UTC
LATER = NOW + 90_000
FACTS: dict[str, Any] = {
    "now": NOW,
    "execution_id": "0-x",
    "state": "ready",
    "kind": "t",
    "lane": "default",
    "lane_status": "active",
    "attempt_index": 1,
    "max_attempts": 3,
    "ahead": 0,
}
QUOTA = {"kind": "quota", "id": "0-q", "running": 0, "in_window": 5, "max_per_window": 5, "window_ms": 60_000}
KEY = {"kind": "concurrency_key", "id": "default.k", "running": 1, "in_window": 0, "max_concurrent": 1}


def said(workers: list[Worker] | None = None, **facts: Any) -> tuple[str, str, dict[str, Any]]:
    reply = explain(FACTS | facts, workers)
    assert reply["explanation"].endswith(".") and reply["advice"].endswith(".")
    return reply["explanation"], reply["advice"], reply["waiting_for"]


def worker(name: str, *capabilities: str, lane: str = "default", draining: bool = False) -> Worker:
    return Worker(name, frozenset({lane}), frozenset(capabilities), draining=draining)


@pytest.mark.parametrize(
    ("facts", "explanation", "advice", "kind"),
    [
        (
            {"state": "scheduled", "reason": "time", "wake_at": LATER},
            "It is scheduled for 2027-01-15 08:01:30 UTC (in 90 s).",
            "execution.run_now",
            "time",
        ),
        (
            {"state": "scheduled", "reason": "dependencies", "flow_status": "created"},
            "Its flow has not been started.",
            "flow.start",
            "dependencies",
        ),
        (
            {"state": "retry_wait", "wake_at": LATER, "failure": {"reason": "no disk", "category": "disk"}},
            "Attempt 1 of 3 failed: no disk (disk); the next one is due at 2027-01-15 08:01:30 UTC "
            "(in 90 s).",
            "execution.run_now",
            "time",
        ),
        ({"lane_status": "paused"}, "Lane 'default' is paused: it hands out no work.", "lane.resume", "lane"),
        (
            {"flow_status": "cancelled"},
            "Its flow is cancelled; it will be canceled, not run.",
            "Nothing",
            "cancellation",
        ),
        (
            {"grant": {"worker_id": "w1", "expires_at": LATER}},
            "It is granted to worker 'w1', which has not claimed it yet.",
            "moments",
            "claim",
        ),
        (
            {
                "block": {"code": "rate_limit_exceeded", "reason": "quota", "until_at": LATER},
                "limits": [QUOTA],
            },
            "Quota '0-q' is used up: 5 of 5 began in the last 60 s.",
            "by itself",
            "quota",
        ),
        (
            {"limits": [QUOTA | {"retry_after_ms": 500}]},
            "Quota '0-q' is used up: 5 of 5 began in the last 60 s, with room again in 500 ms.",
            "by itself",
            "quota",
        ),
        (
            {"limits": [KEY]},
            "Concurrency key 'default.k' is used up: 1 of 1 run.",
            "by itself",
            "concurrency_key",
        ),
        (
            {"limits": [KEY | {"running": 0}], "block": {"code": "concurrency_limit_exceeded"}},
            "Concurrency key 'default.k' is used up: 0 of 1 ran at the last try.",
            "again",
            "concurrency_key",
        ),
        (
            {
                "limits": [
                    {
                        "kind": "budget",
                        "id": "0-b",
                        "exhausted": True,
                        "dimensions": {"usd": {"used": 12, "hard": 10}, "calls": {"used": 1, "hard": 9}},
                    }
                ]
            },
            "Budget '0-b' is used up: 12 of 10 usd.",
            "budget.replenish",
            "budget",
        ),
        (
            {"block": {"code": "budget_exceeded", "reason": "budget", "until_at": LATER}},
            "It is held: budget exceeded.",
            "in 90 s",
            "budget",
        ),
        (
            {"state": "running", "lease": {"worker_id": "w1", "expires_at": LATER}},
            "It runs on worker 'w1'; the lease lasts until 2027-01-15 08:01:30 UTC (in 90 s) and is renewed "
            "while the worker lives.",
            "lease.revoke",
            "outcome",
        ),
        (
            {
                "state": "leased",
                "lease": {"worker_id": "w1", "expires_at": LATER},
                "cancel_requested": True,
                "stop_by": NOW,
            },
            "It is leased to worker 'w1', which was asked to stop by 2027-01-15 08:00:00 UTC.",
            "revoked",
            "outcome",
        ),
        (
            {
                "state": "suspended",
                "reason": "signal",
                "waitpoint": {"waitpoint_id": "0-w", "key": "approval", "condition": {"name": "ok"}},
                "wake_at": LATER,
                "on_timeout": "fail",
            },
            "It waits for a signal 'ok' at waitpoint 'approval'; at 2027-01-15 08:01:30 UTC (in 90 s) it "
            "times out (fail).",
            "signal.deliver",
            "signal",
        ),
        (
            {"state": "suspended", "reason": "delay", "wake_at": LATER},
            "Its worker delayed it until 2027-01-15 08:01:30 UTC (in 90 s).",
            "execution.run_now",
            "time",
        ),
        (
            {"state": "suspended", "reason": "children", "children_open": 3},
            "It waits for 3 of its children to end.",
            "children",
            "children",
        ),
        (
            {"state": "suspended", "reason": "budget", "budget_id": "0-b"},
            "Budget '0-b' went past its hard limit.",
            "budget.replenish",
            "budget",
        ),
        (
            {"state": "suspended", "reason": "operator"},
            "An operator holds it.",
            "execution.resume",
            "operator",
        ),
        (
            {"state": "completed", "finished_at": NOW},
            "It completed at 2027-01-15 08:00:00 UTC.",
            "Nothing",
            "nothing",
        ),
        (
            {"state": "canceled", "outcome": "skipped", "finished_at": NOW},
            "It was skipped at 2027-01-15 08:00:00 UTC.",
            "execution.replay",
            "nothing",
        ),
        (
            {"state": "failed", "finished_at": NOW, "failure": {"reason": "boom", "category": "error"}},
            "It failed at 2027-01-15 08:00:00 UTC after 1 of 3 attempts: boom (error).",
            "execution.replay",
            "nothing",
        ),
    ],
)
def test_sentences(facts: dict[str, Any], explanation: str, advice: str, kind: str) -> None:
    text, what, waiting_for = said(**facts)
    assert text == explanation
    assert advice in what
    assert waiting_for["kind"] == kind


def test_dependencies() -> None:
    parents = [
        {"key": "a", "execution_id": "0-a", "state": "running"},
        {"key": "b", "execution_id": "0-b", "state": "suspended", "reason": "signal"},
        {"key": "c", "execution_id": "0-c", "state": "canceled", "outcome": "skipped"},
    ]
    facts = {"state": "scheduled", "reason": "dependencies", "flow_status": "running", "parents": parents}
    waits = "'a' (running), 'b' (suspended(signal)), 'c' (canceled(skipped))"
    join = {"policy": "all_of", "n": 3, "ok": 0, "dead": 1}
    text, _, waiting_for = said(**facts, unmet=3, join=join)
    assert text == f"It waits for 3 parents in its flow: {waits}."
    assert waiting_for["parents"] == parents and waiting_for["join"] == join
    assert said(**facts, unmet=3, join={"policy": "any_of"})[0].startswith(
        "It waits for any one of its parents"
    )
    text = said(**facts, unmet=40, join={"policy": "quorum", "k": 5, "ok": 2})[0]
    assert text == f"It waits for 3 more of its parents (a quorum of 5): {waits} and 37 more."


def test_nobody_to_take_it() -> None:
    facts = {"caps": "big,gpu", "ahead": 4}
    text, advice, waiting_for = said(**facts)
    assert text == (
        "It is ready, behind 4 in its queue: no worker with 'big', 'gpu' has taken it from lane 'default' "
        "yet."
    )
    assert waiting_for == {"kind": "worker", "lane": "default", "capabilities": ["big", "gpu"], "ahead": 4}

    text, _, waiting_for = said([worker("w1", lane="other"), worker("w2", draining=True)], **facts)
    assert text == "No registered worker serves lane 'default'." and waiting_for["workers"] == 0

    some = [worker("w1", "big"), worker("w2"), worker("w3", "gpu", lane="other")]
    text, advice, waiting_for = said(some, **facts)
    assert text == (
        "No worker of lane 'default' has all that it asks for ('big', 'gpu'): w1 lacks 'gpu', "
        "w2 lacks 'big', 'gpu'."
    )
    assert advice == "Start a worker with 'big', 'gpu' for lane 'default'."
    assert waiting_for["kind"] == "capability" and waiting_for["missing"] == ["gpu"]
    assert waiting_for["lacking"] == {"w1": ["gpu"], "w2": ["big", "gpu"]}

    text, _, waiting_for = said([*some, worker("w4", "gpu", "big")], **facts)
    assert "1 of 3 workers of lane 'default' can take it" in text and waiting_for["kind"] == "worker"


def test_many_are_counted() -> None:
    text = said([worker(f"w{n}") for n in range(13)], caps="gpu")[0]
    assert text.endswith("w9 lacks 'gpu' and 3 more.")


def tally(**signals: list[str]) -> dict[str, Any]:
    """Return the state machine's tally of the signals. signals: {name: sources}."""
    return {name: {"n": len(sources), "s": dict.fromkeys(sources, 1)} for name, sources in signals.items()}


@pytest.mark.parametrize(
    ("condition", "seen", "missing"),
    [
        (None, {}, ["any signal"]),
        ({"name": "a"}, {}, ["a signal 'a'"]),
        ({"prefix": "r."}, {}, ["a signal 'r.*'"]),
        ({"all": [{"name": "a"}, {"name": "b"}]}, tally(a=[""]), ["a signal 'b'"]),
        ({"any": [{"name": "a"}, {"name": "b"}]}, {}, ["a signal 'a' or a signal 'b'"]),
        (
            {"any": [{"name": "a"}, {"all": [{"name": "b"}, {"name": "c"}]}]},
            {},
            ["a signal 'a' or a signal 'b' with a signal 'c'"],
        ),
        ({"n": 3, "distinct": False, "of": [{"prefix": "r"}]}, tally(r1=["", ""]), ["1 more of 'r*'"]),
        (
            {"n": 2, "distinct": True, "of": [{"name": "a"}, {"name": "b"}]},
            tally(a=["jo", "jo"]),
            ["1 more of 'a' or 'b' from other sources"],
        ),
        (
            {"n": 2, "distinct": False, "of": [{"all": [{"name": "a"}, {"name": "b"}]}]},
            tally(a=["", "", ""]),
            ["2 more of 'a' or 'b'"],
        ),
        ({"any": [{"name": "a"}, {"name": "b"}]}, tally(b=[""]), []),
    ],
)
def test_missing_signals(condition: Any, seen: dict[str, Any], missing: list[str]) -> None:
    assert missing_signals(condition, seen) == missing
