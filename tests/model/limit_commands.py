"""The strategies and the records (tokens, jobs, grants) of the limits model."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

HALF = 30_000
MINUTE = 2 * HALF
WINDOW = 5 * HALF
LONG = 10 * MINUTE
PARTITIONS = (0, 1)
EVERYTHING: dict[str, Any] = {"lanes": ["a", "b"], "capabilities": ["gpu"], "kinds": None, "max": 10}
LIMITS = {"grant_ttl_ms": HALF, "retention_ms": 1000 * MINUTE}
Call = tuple[int, str, dict[str, Any]]
FENCE = ("execution_id", "attempt_index", "lease_id", "lease_epoch")


@dataclass
class Token:
    """A limit token: at most `concurrent` at once, `per_window` begun per window; or a budget with `left` to use."""

    name: str
    concurrent: int | None = None
    per_window: int | None = None
    left: int | None = None


@dataclass
class Job:
    execution_id: str
    spec: dict[str, Any]
    tokens: list[Token]
    ended: bool = False
    admitted: dict[str, int] = field(default_factory=dict)
    """By token: when it admitted the job's present hold, or its last one."""
    lease: dict[str, Any] | None = None
    lease_ends: int = 0
    started: bool = False


@dataclass
class Grant:
    """A grant that a scheduler works on: it asks each partition in `remote` for room, then claims."""

    job: Job
    grant_id: str
    slot: str
    remote: list[str]
    service: str
    start: bool
    ttl: int


NAMES = ("one", "two", "per_window", "both", "single", "budget")
CREATE = st.fixed_dictionaries(
    {
        "partition": st.sampled_from(PARTITIONS),
        "tokens": st.sampled_from([(), (0,), (1,), (2,), (0, 1), (0, 1), (1, 2)]),
        "lane": st.sampled_from(["a", "a", "b"]),
        "kind": st.sampled_from(["t", "t", "t.a", "t.b"]),
        "fairness_key": st.sampled_from([None, None, "t"]),
        "capabilities": st.sampled_from([[], [], ["gpu"]]),
        "priority": st.sampled_from([0, 0, 5]),
    }
)
ASK = st.fixed_dictionaries(
    {
        "partition": st.sampled_from(PARTITIONS),
        "op": st.sampled_from(["hand_out", "hand_out", "grant"]),
        "lanes": st.sampled_from([["a"], ["a", "b"], ["b", "a"]]),
        "capabilities": st.sampled_from([[], ["gpu"], ["gpu"]]),
        "kinds": st.sampled_from([None, None, ["t"], ["t.*"], ["t", "t.b"]]),
        "max": st.sampled_from([1, 1, 2, 10]),
        "start": st.sampled_from([True, True, False]),
        "ttl": st.sampled_from([HALF, 3 * HALF, 7 * HALF]),
    }
)
number = st.integers(0, 11)
