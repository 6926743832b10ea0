"""Messages about what has happened lately: rates and latencies of lanes, failures by their cause, limits that block."""

from typing import Annotated, Any

from msgspec import Meta, field

from penstock.messages.common import Id, Kind, Limit, Reply, Request, Token


class LaneStatsGet(Request, kw_only=True):
    """Ask for a lane's statistics of the last `minutes`; without a lane, of all lanes together."""

    lane: Token | None = None
    minutes: Annotated[int, Meta(ge=0, le=1440)] = 60


class Latency(Reply, kw_only=True):
    """Percentiles of a duration, in milliseconds, within 10 % of the true value; and how many durations there were."""

    count: int = 0
    p50: int | None = None
    p95: int | None = None
    p99: int | None = None


class Counts(Reply, kw_only=True):
    """What happened in a span of time that begins at `at`. The numbers are of executions, except retried, reclaimed.

    wait: from ready to started. run: from the first start to the end, for executions that completed or failed.
    retried: attempts that failed and are tried again. reclaimed: leases that were lost.
    """

    at: int
    created: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0
    retried: int = 0
    reclaimed: int = 0
    wait: Latency = field(default_factory=Latency)
    run: Latency = field(default_factory=Latency)


class LaneStats(Reply, kw_only=True):
    """Statistics of a lane. minutes: one item for each minute in which something happened, oldest first.

    last_15m, last_24h: everything in the last 15 minutes and the last 24 hours. until: how far the numbers go.
    """

    lane: str | None = None
    minutes: list[Counts] = []
    last_15m: Counts
    last_24h: Counts
    until: int | None = None


class FailureGroups(Request, kw_only=True):
    """List causes of failures, the latest first. All given filters must match."""

    namespace: Token | None = None
    kind: Kind | None = None
    category: Token | None = None
    limit: Limit = 100


class FailureGroup(Reply, kw_only=True):
    """Failures of one kind and category whose reasons are alike. group: its id, for `filter.failure_group`.

    reason: the normalised reason: numbers, ids, addresses and quoted texts are replaced by placeholders.
    failed: executions that ended so. retried: attempts that failed so and were tried again.
    sample_execution_id: the execution that failed so last.
    """

    group: str
    namespace: str
    kind: str
    category: str
    reason: str
    failed: int = 0
    retried: int = 0
    first_at: int
    last_at: int
    sample_execution_id: str


class LimitsBlocked(Request, kw_only=True):
    """List the limits without room that hold work back now, those that hold back most first."""

    lane: Token | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class BlockedLimit(Reply, kw_only=True):
    """A limit without room. kind: quota, concurrency_key or budget.

    id: the quota's or budget's id, or `<namespace>:<key>` of a concurrency key. detail: its rule and its use, as in
    `waiting_for` of `execution.explain`. waiting: ready executions that it holds back. sample: some of those, the first
    to go. holders: executions that hold its slots. look_again_at: when it is looked at again at the latest.
    """

    kind: str
    id: str
    detail: dict[str, Any]
    waiting: int
    lanes: list[str] = []
    sample: list[Id] = []
    holders: list[Id] = []
    look_again_at: int | None = None


class BlockedLimits(Reply, kw_only=True):
    """more: there are further blocked limits, which this call did not look at."""

    items: list[BlockedLimit] = []
    more: bool = False
