"""Mirror rules: messages of any subject become observations of flows that somebody else runs."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta

from penstock.messages.common import Limit, Reply, Request, Text, Token
from penstock.messages.flows import TaskName

Subject = Annotated[str, Meta(pattern=r"^[^\s.]+(\.[^\s.]+)*(?!\n)$", max_length=256)]
Expression = Annotated[str, Meta(min_length=1, max_length=2048)]


class Source(Request, kw_only=True):
    """Where a value comes from: exactly one of a token of the subject (from 1), a header, a JMESPath expression over
    the message's JSON, and a constant."""

    token: Annotated[int, Meta(ge=1, le=64)] | None = None
    header: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    jmespath: Expression | None = None
    const: Any = UNSET


StepStatus = Literal["pending", "running", "succeeded", "failed", "cancelled"]


class StatusSource(Source, kw_only=True):
    """`map`: from what the other system says to a step's status; without it, it says so itself."""

    map: dict[str, StepStatus] | None = None


class RuleCreate(Request, kw_only=True):
    """The mirrored flow that a new key makes. `{key}` in its goal is the key."""

    controller_id: Token
    owner: Token
    goal: Text = "{key}"
    namespace: Token = "default"
    completion: Literal["manual", "all_steps", "on_task"] = "manual"
    completion_task: TaskName | None = None


class RuleFlow(Request, kw_only=True):
    """Which flow: one that is known by its id, or one for each key of the rule, made on first sight with `create`."""

    id: Source | None = None
    key: Source | None = None
    create: RuleCreate | None = None


class MirrorRulePut(Request, kw_only=True):
    """A rule; it replaces the one with its name. `stream`: a JetStream stream that exists, else core NATS."""

    name: Token
    subject: Subject
    stream: Token | None = None
    flow: RuleFlow
    run_id: Source
    task: Source
    status: StatusSource
    result: Source | None = None
    observed_at: Source | None = None
    child_session_key: Source | None = None


class MirrorRule(Reply, kw_only=True):
    """A rule, and what it has done: messages seen, observations applied, messages dropped, and the last reason why."""

    name: str
    subject: str
    stream: str | None = None
    flow: dict[str, Any]
    run_id: dict[str, Any]
    task: dict[str, Any]
    status: dict[str, Any]
    result: dict[str, Any] | None = None
    observed_at: dict[str, Any] | None = None
    child_session_key: dict[str, Any] | None = None
    revision: int
    seen: int = 0
    applied: int = 0
    dropped: int = 0
    last_error: str | None = None
    last_at: int | None = None


class MirrorRuleGet(Request, kw_only=True):
    name: Token


class MirrorRuleList(Request, kw_only=True):
    """In the order of their names."""

    cursor: Token | None = None
    limit: Limit = 100


class Sample(Request, kw_only=True):
    """A message as another system would publish it; `data` is its JSON."""

    subject: Annotated[str, Meta(min_length=1, max_length=256)]
    headers: dict[str, str] = {}
    data: Any = None


class MirrorRuleTest(Request, kw_only=True):
    rule: MirrorRulePut
    sample: Sample


class MirrorRuleTested(Reply, kw_only=True):
    """The observation that it would make, and of which flow (an id, or a key); or why none."""

    observation: dict[str, Any] | None = None
    flow_id: str | None = None
    key: str | None = None
    dropped: str | None = None
