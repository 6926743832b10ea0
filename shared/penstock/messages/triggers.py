"""Triggers: a message of any subject starts an execution or a flow."""

from typing import Annotated, Any

from msgspec import Meta

from penstock.messages.common import Capabilities, Kind, Limit, PositiveMs, Priority, Reply, Request, Token
from penstock.messages.mirror_rules import Expression, Sample, Source, Subject


class TriggerExecution(Request, kw_only=True):
    """What is created for a message: fields of execution.create, some of them read from the message."""

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
    """What is created for a message, and started: fields of flow.create, its state read from the message."""

    controller_id: Token
    owner: Token
    goal: str = ""
    namespace: Token = "default"
    state: Source | None = None
    idempotency_key: Source | None = None
    members: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=100)]
    edges: Annotated[list[dict[str, Any]], Meta(max_length=1000)] = []
    joins: dict[str, dict[str, Any]] = {}


class TriggerPut(Request, kw_only=True):
    """A trigger; it replaces the one with its name. Exactly one of execution and flow.

    stream: a JetStream stream that exists, else core NATS. where: a JMESPath condition over the message's JSON.
    """

    name: Token
    subject: Subject
    stream: Token | None = None
    where: Expression | None = None
    execution: TriggerExecution | None = None
    flow: TriggerFlow | None = None


class Trigger(Reply, kw_only=True):
    """A trigger, and what it has done: messages seen, things created, messages dropped, and the last reason why."""

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
    """In the order of their names."""

    cursor: Token | None = None
    limit: Limit = 100


class TriggerTest(Request, kw_only=True):
    trigger: TriggerPut
    sample: Sample


class TriggerTested(Reply, kw_only=True):
    """The request that it would make, of which verb; or why none."""

    verb: str | None = None
    request: dict[str, Any] | None = None
    dropped: str | None = None
