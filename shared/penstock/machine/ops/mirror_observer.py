"""The mirror-observer's operations: flows that somebody else runs, known by what is observed of their steps."""

from msgspec import Struct

from penstock.machine.op import Op, op
from penstock.machine.ops.common import PAGE, Slice
from penstock.messages.flows import Flow, Step


@op("mirror_observer", by="id")
class CreateMirrored(Op[Flow], kw_only=True):
    id: str
    controller_id: str
    goal: str
    owner: str
    requester_origin: str | None = None
    current_step: str | None = None
    state: str | None
    namespace: str
    idempotency_key: str | None = None
    digest: str | None = None
    completion: str
    completion_task: str | None = None


@op("mirror_observer", by="flow_id")
class Observe(Op[Step], kw_only=True):
    """One step, as its runner saw it. Answers the step."""

    flow_id: str
    run_id: str
    task: str
    status: str
    result: str | None = None
    child_session_key: str | None = None
    observed_at: int | None = None


class Applied(Struct):
    """Whether it changed anything."""

    applied: bool


@op("mirror_observer", by="flow_id")
class Apply(Op[Applied], kw_only=True):
    """As Observe, for what was published: a message counts once.

    published_at: microseconds by JetStream's clock, where there is no observed_at.
    """

    flow_id: str
    run_id: str
    task: str
    status: str
    result: str | None = None
    child_session_key: str | None = None
    observed_at: int | None = None
    message_id: str
    published_at: int | None = None


@op("mirror_observer", by="flow_id")
class Drop(Op[None], kw_only=True):
    """Something published to a flow was no observation."""

    flow_id: str
    reason: str


class StepsRead(Struct):
    """after: the position behind the last (None: that was the end)."""

    items: list[Step]
    after: int | None = None


@op("mirror_observer", by="flow_id", weight=24)
class Steps(Op[StepsRead], kw_only=True):
    """Steps, oldest first. bytes: of results, after which the slice ends."""

    flow_id: str
    after: int
    limit: int
    bytes: int


class RuleKept(Struct, kw_only=True):
    """A rule: body is JSON text."""

    name: str
    body: str
    revision: int
    seen: int
    applied: int
    dropped: int
    last_error: str | None = None
    last_at: int | None = None


@op("mirror_observer")
class RulePut(Op[RuleKept], kw_only=True):
    """In partition 0, as everything about rules but their flows. kind: rule or trigger."""

    kind: str
    name: str
    body: str


@op("mirror_observer")
class RuleGet(Op[RuleKept], kw_only=True):
    kind: str
    name: str


@op("mirror_observer", weight=PAGE)
class RuleList(Op[Slice[RuleKept]], kw_only=True):
    kind: str
    cursor: str | None = None
    limit: int


@op("mirror_observer")
class RuleDelete(Op[RuleKept], kw_only=True):
    """Answers the rule as it was."""

    kind: str
    name: str


class Version(Struct):
    version: int


@op("mirror_observer")
class RulesVersion(Op[Version], kw_only=True):
    """How often rules have changed."""


@op("mirror_observer")
class RuleCount(Op[None], kw_only=True):
    """What an observer has done by a rule since it told last."""

    kind: str
    name: str
    seen: int
    applied: int
    dropped: int
    last_error: str | None = None


class NewFlow(Struct, kw_only=True):
    """The flow that a key makes. state: JSON text."""

    controller_id: str
    owner: str
    goal: str
    namespace: str
    completion: str
    completion_task: str | None = None
    state: str = "{}"


class KeysFlow(Struct):
    flow_id: str


@op("mirror_observer", by="id")
class RuleFlow(Op[KeysFlow | None], kw_only=True):
    """The flow of a rule's key, in the partition of `id`, which it gets if it is made here."""

    rule: str
    key: str
    id: str
    create: NewFlow | None = None
