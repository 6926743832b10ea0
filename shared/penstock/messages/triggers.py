"""Messages about triggers: a trigger creates an execution or a flow for each message on a subject."""

from typing import Annotated, Any

from msgspec import Meta

from penstock.messages.common import (
    Capabilities,
    Kind,
    Limit,
    PositiveMs,
    Priority,
    Reply,
    Request,
    Text,
    Token,
)
from penstock.messages.mirror_rules import Expression, Sample, Source, Subject


class TriggerExecution(Request, kw_only=True):
    """The execution to create for a message: fields of execution.create, some read from the message."""

    kind: Kind
    input: Source | None = None
    lane: Token = "default"
    priority: Priority = 0
    namespace: Token = "default"
    max_attempts: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    capabilities: Capabilities = []
    deadline_ms: PositiveMs | None = None
    tags: Annotated[dict[Token, Source], Meta(max_length=32)] = {}
    idempotency_key: Source | None = None
    unique_key: Source | None = None


class TriggerFlow(Request, kw_only=True):
    """The flow to create and start for a message: fields of flow.create; its state is read from the message."""

    controller_id: Token
    owner: Token
    goal: Text = ""
    namespace: Token = "default"
    state: Source | None = None
    idempotency_key: Source | None = None
    members: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=100)]
    edges: Annotated[list[dict[str, Any]], Meta(max_length=1000)] = []
    joins: Annotated[dict[Token, dict[str, Any]], Meta(max_length=100)] = {}


class TriggerPut(Request, kw_only=True):
    """Store a trigger, replacing the one with the same name. Exactly one of `execution` and `flow` is given.

    stream: an existing JetStream stream; without it, core NATS. where: a JMESPath condition on the message's JSON.
    """

    name: Token
    subject: Subject
    stream: Token | None = None
    where: Expression | None = None
    execution: TriggerExecution | None = None
    flow: TriggerFlow | None = None


class Trigger(Reply, kw_only=True):
    """A trigger, with the numbers of messages seen, applied (something was created) and dropped, and the last error."""

    name: str
    subject: str
    stream: str | None = None
    where: str | None = None
    execution: dict[str, Any] | None = None
    flow: dict[str, Any] | None = None
    revision: int
    seen: int = 0
    applied: int = 0
    dropped: int = 0
    last_error: str | None = None
    last_at: int | None = None


class TriggerGet(Request, kw_only=True):
    name: Token


class TriggerList(Request, kw_only=True):
    """List triggers, sorted by name."""

    cursor: Token | None = None
    limit: Limit = 100


class TriggerTest(Request, kw_only=True):
    trigger: TriggerPut
    sample: Sample


class TriggerTested(Reply, kw_only=True):
    """The verb and request that the trigger would send for the sample; or why the sample is dropped."""

    verb: str | None = None
    request: dict[str, Any] | None = None
    dropped: str | None = None
