"""Messages about mirror rules, which turn messages of other systems into observations of mirrored flows."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta

from penstock.messages.common import Limit, Reply, Request, Text, Token
from penstock.messages.flows import TaskName

Subject = Annotated[str, Meta(pattern=r"^[^\s.]+(\.[^\s.]+)*(?!\n)$", max_length=256)]
Expression = Annotated[str, Meta(min_length=1, max_length=2048)]


class Source(Request, kw_only=True):
    """Where a value is read from: exactly one of a token of the subject (counted from 1), a header, a JMESPath
    expression on the message's JSON, and a constant."""

    token: Annotated[int, Meta(ge=1, le=64)] | None = None
    header: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    jmespath: Expression | None = None
    const: Any = UNSET


StepStatus = Literal["pending", "running", "succeeded", "failed", "cancelled"]


class StatusSource(Source, kw_only=True):
    """map: translates the other system's values into a step's status; without it they must be statuses already."""

    map: Annotated[dict[Annotated[str, Meta(max_length=256)], StepStatus], Meta(max_length=100)] | None = None


class RuleCreate(Request, kw_only=True):
    """The mirrored flow to create for a new key. `{key}` in `goal` is replaced by the key."""

    controller_id: Token
    owner: Token
    goal: Text = "{key}"
    namespace: Token = "default"
    completion: Literal["manual", "all_steps", "on_task"] = "manual"
    completion_task: TaskName | None = None


class RuleFlow(Request, kw_only=True):
    """The flow of a message: an existing one, by `id`; or one for each `key`, created with `create` when first seen."""

    id: Source | None = None
    key: Source | None = None
    create: RuleCreate | None = None


class MirrorRulePut(Request, kw_only=True):
    """Store a rule, replacing the one of that name. stream: an existing JetStream stream; without it, core NATS."""

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
    """A rule, with the numbers of messages seen, observations applied and messages dropped, and the last error."""

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
    """List rules, sorted by name."""

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
    """The observation that the rule would make, and its flow (an id or a key); or why the sample is dropped."""

    observation: dict[str, Any] | None = None
    flow_id: str | None = None
    key: str | None = None
    dropped: str | None = None
