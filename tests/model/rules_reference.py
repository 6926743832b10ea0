"""A plain-Python model of mirror rules: messages in, observations of mirrored flows out.

Observers learn of rules late, die with what they counted, and get messages twice and out of order. Still a rule has one
flow for each key, and each message has its effect once.
"""

import math
from dataclasses import dataclass, field

RANK = {"pending": 1, "running": 2, "succeeded": 3, "failed": 3}
STATUSES = {"queued": "pending", "go": "running", "ok": "succeeded", "error": "failed"}


@dataclass(frozen=True)
class Sent:
    """A message of the other system. `state` is its own word for a status; `at`: the instant that it says."""

    number: int
    key: str
    run_id: str
    task: str
    state: str
    at: int | None


@dataclass(frozen=True)
class Variant:
    """A rule's body: which words it knows, and whether it makes flows, which end by this completion."""

    words: tuple[str, ...]
    makes: bool
    completion: str = "manual"


@dataclass
class Step:
    task: str
    status: str
    result: int
    observed_at: float
    published: int | None
    seen: set[int]


@dataclass
class Mirrored:
    """A mirrored flow. `news` counts the observations that changed something."""

    completion: str
    status: str = "running"
    steps: dict[str, Step] = field(default_factory=dict)
    news: int = 0

    def observe(self, sent: Sent, status: str) -> bool:
        """Apply an observation, or not if it is no news. Return False if the flow is over."""
        step = self.steps.get(sent.run_id)
        at = (
            math.inf if sent.at is None else sent.at
        )  # what says no instant is of now, later than all instants
        published = sent.number if sent.at is None else None
        verdict = None if step is None else self._judge(step, sent, status, at, published)
        if verdict != "duplicate" and self.status != "running":
            return False
        if verdict is None:
            seen = set() if step is None else step.seen
            if step is not None and published is None:
                published = step.published
            self.steps[sent.run_id] = Step(
                sent.task, status, sent.number, at, published, seen | {sent.number}
            )
            self.news += 1
            if RANK[status] == 3:
                self._complete(sent.task, status)
        return True

    @staticmethod
    def _judge(step: Step, sent: Sent, status: str, at: float, published: int | None) -> str | None:
        if sent.number in step.seen:
            return "duplicate"
        if RANK[step.status] == 3 and step.status != status:
            return "step_terminal"
        if at < step.observed_at:
            return "stale"
        if published is not None and step.published is not None:
            return "stale" if published < step.published else None
        return "stale" if at == step.observed_at and RANK[status] < RANK[step.status] else None

    def _complete(self, task: str, status: str) -> None:
        if self.completion == "on_task" and task == "last":
            self.status = "finished" if status == "succeeded" else "failed"
        elif self.completion == "all_steps":
            statuses = {step.status for step in self.steps.values()}
            if all(RANK[each] == 3 for each in statuses):
                self.status = "failed" if "failed" in statuses else "finished"


@dataclass
class Counts:
    seen: int = 0
    applied: int = 0
    dropped: int = 0

    def add(self, other: "Counts") -> None:
        self.seen += other.seen
        self.applied += other.applied
        self.dropped += other.dropped


@dataclass
class Stored:
    """A rule as Valkey has it."""

    variant: Variant
    revision: int
    counts: Counts = field(default_factory=Counts)
    told_of_an_error: bool = False


@dataclass
class Observer:
    """A mirror-observer: the rules that it follows, as it knows them, and what it has counted since its last report."""

    follows: dict[str, Stored] = field(default_factory=dict)
    untold: dict[str, Counts] = field(default_factory=dict)


class Rules:
    """All rules, the flows that they made, by rule and key, and two observers."""

    def __init__(self) -> None:
        self.stored: dict[str, Stored] = {}
        self.revisions: dict[str, int] = {}
        self.flows: dict[tuple[str, str], Mirrored] = {}
        self.observers = [Observer(), Observer()]

    def put(self, name: str, variant: Variant) -> int:
        """Store a rule. Return its revision, which a rule that takes a deleted one's name goes on counting."""
        revision = self.revisions.get(name, 0) + 1
        self.revisions[name] = revision
        counts = self.stored[name].counts if name in self.stored else Counts()
        self.stored[name] = Stored(variant, revision, counts)
        return revision

    def look(self, observer: Observer) -> None:
        """Let the observer follow the rules as they are now."""
        for name in list(observer.follows):
            if self.stored.get(name) is None or self.stored[name].revision != observer.follows[name].revision:
                self.tell(observer, name)
                del observer.follows[name]
        for name, rule in self.stored.items():
            observer.follows.setdefault(name, rule)

    def tell(self, observer: Observer, name: str) -> None:
        counts = observer.untold.pop(name, None)
        if counts is not None and name in self.stored:
            self.stored[name].counts.add(counts)
            self.stored[name].told_of_an_error |= counts.dropped > 0

    def apply(self, observer: Observer, name: str, messages: list[Sent]) -> None:
        variant = observer.follows[name].variant
        counts = observer.untold.setdefault(name, Counts())
        for sent in messages:  # flows are made before anything is applied
            if sent.state in variant.words and variant.makes:
                self.flows.setdefault((name, sent.key), Mirrored(variant.completion))
        for sent in messages:
            counts.seen += 1
            flow = self.flows.get((name, sent.key))
            known = sent.state in variant.words and flow is not None
            if known and flow.observe(sent, STATUSES[sent.state]):
                counts.applied += 1
            else:
                counts.dropped += 1

    def retire(self) -> None:
        """Forget the flows that have ended."""
        for place, flow in list(self.flows.items()):
            if flow.status != "running":
                del self.flows[place]
