"""The Hypothesis strategies for the commands of the executions model, and the durations that they use (ms)."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from reference import GRANT_TTL, RETENTION

HALF = 30_000
MINUTE = 2 * HALF
LIMITS = {"grant_ttl_ms": GRANT_TTL, "retention_ms": RETENTION}
Command = tuple[str, dict[str, Any]]
Check = Callable[[Any], None]

# A payload of this size is kept in a key of its own; a small one stays in the record.
LARGE = '"' + 600 * "x" + '"'
index = st.integers(0, 11)
worker = st.sampled_from(["w1", "w2"])
durations = st.sampled_from([HALF, 3 * HALF])
lease_ttls = st.sampled_from([HALF, 3 * HALF, 9 * HALF, 9 * HALF])


def command(name: str, /, **fields: Any) -> st.SearchStrategy[Command]:
    return st.tuples(st.just(name), st.fixed_dictionaries(fields))


def maybe(strategy: Any) -> Any:
    return st.none() | strategy


fenced = {
    "job": index,
    "lease": st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2]),
    "forge": st.sampled_from(["", "", "", "", "", "", "", "", "lease", "epoch", "attempt"]),
}
backoff = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["fixed", "exponential"]),
        "delay_ms": st.just(HALF),
        "factor": st.just(3),
        "max_ms": st.sampled_from([HALF, 9 * HALF]),
    }
)
CREATE = command(
    "create",
    lane=st.sampled_from(["a", "a", "b"]),
    priority=st.sampled_from([0, 0, 5, -128, 127]),
    caps=st.sampled_from([[], [], ["gpu"], ["gpu", "ssd"]]),
    fair=st.sampled_from([None, None, "t1", "t2", "t3"]),
    run_at=st.sampled_from([None, None, None, HALF, 3 * HALF]),
    deadline=st.sampled_from([None, None, None, None, 5 * HALF, 9 * HALF]),
    max_attempts=st.integers(1, 3),
    backoff=backoff,
    timeout=maybe(durations),
    max_reclaims=st.sampled_from([None, 0, 1, 2]),
    input=st.sampled_from([None, "[1]", LARGE]),
    categories=st.sampled_from([{}, {}, {}, {"fail_on": ["bad"]}, {"retry_on": ["good", "timeout"]}]),
    parent=st.sampled_from([None, None, 0, 1, 2]),
    parent_close=st.sampled_from([None, None, "let_run"]),
    taker=maybe(st.tuples(worker, st.sampled_from([True, True, False]), lease_ttls)),
)
GRANT = command(
    "grant",
    worker=worker,
    lanes=st.sampled_from([["a"], ["a", "b"], ["b", "a"]]),
    caps=st.sampled_from([[], ["gpu"], ["gpu", "ssd"]]),
    max=st.sampled_from([1, 1, 2, 10]),
)
CLAIM = command(
    "claim",
    grant=st.integers(0, 3),
    worker=st.sampled_from([None, None, None, "w1", "w2"]),
    job=maybe(index) | st.none() | st.none(),
    verb=st.sampled_from(["any", "any", "claim", "claim_resumed", "reclaim"]),
    start=st.sampled_from([True, True, False]),
    ttl=lease_ttls,
)
HAND_OUT = command(
    "hand_out",
    workers=st.lists(st.tuples(worker, st.integers(1, 3)), min_size=1, max_size=3),
    lanes=st.sampled_from([["a"], ["a", "b"], ["b", "a"]]),
    caps=st.sampled_from([[], ["gpu"], ["gpu", "ssd"]]),
    max=st.sampled_from([1, 10]),
    start=st.sampled_from([True, True, False]),
    ttl=lease_ttls,
)
FAIL = command(
    "fail",
    **fenced,
    category=st.sampled_from(["error", "bad", "good"]),
    retryable=st.sampled_from([True, True, True, False]),
    delay=maybe(durations),
)
WAITPOINT = command("waitpoint", **fenced, key=st.sampled_from(["k", "l"]), lasts=durations)
SUSPEND = command(
    "suspend",
    **fenced,
    waitpoint=st.sampled_from([None, None, 0, 1]),
    condition=st.sampled_from([None, "yes", "yes"]),
    timeout=maybe(durations),
    behavior=st.sampled_from(["fail", "cancel", "resume", "escalate"]),
)
DELIVER = command(
    "deliver", waitpoint=st.integers(0, 2), signal=st.integers(0, 3), name=st.sampled_from(["yes", "no"])
)
RESUMED_BY = command("resumed_by", **fenced)
HOLD = command("hold", job=index)
RESUME = command("resume", job=index)
DELAY = command("delay", **fenced, lasts=st.sampled_from([HALF, 3 * HALF, -HALF]))
AWAIT_CHILDREN = command("await_children", **fenced)
BREACH = command(
    "budget_breach",
    **fenced,
    breach=st.sampled_from(["suspend", "suspend", "fail"]),
    told=st.booleans(),
)
COMPLETE = command("complete", **fenced)
START = command("start", **fenced)
KEEPER = st.one_of(
    FAIL,
    FAIL,
    COMPLETE,
    CLAIM,
    START,
    START,
    command("renew", **fenced, ttl=maybe(durations)),
    command("progress", **fenced),
    command("release", **fenced, unbegun=st.booleans()),
    DELAY,
    AWAIT_CHILDREN,
    BREACH,
    command("budget_resume", **fenced),
)
ROUTER = st.one_of(WAITPOINT, SUSPEND, DELIVER, DELIVER, RESUMED_BY, HOLD, RESUME, RESUME)
CANCEL = command("cancel", job=index, grace=st.sampled_from([3 * HALF, HALF, 0]))
LIFE = st.one_of(
    FAIL,
    COMPLETE,
    WAITPOINT,
    SUSPEND,
    DELIVER,
    RESUMED_BY,
    HOLD,
    RESUME,
    DELAY,
    AWAIT_CHILDREN,
    BREACH,
    CANCEL,
)
"""What befalls tasks that have just been handed out."""

LOOPS = ["lease-keeper", "scheduler", "signal-router", "cancel-reconciler"]


def service_of(name: str) -> str:
    """Return the service that serves a command of LIFE."""
    if name == "cancel":
        return "cancel-reconciler"
    by_router = ("waitpoint", "suspend", "deliver", "resumed_by", "hold", "resume")
    return "signal-router" if name in by_router else "lease-keeper"
