"""The mirror-observer's operations: flows run by another system, known by observations of their steps."""

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
    """Apply an observation of one step by its runner. Return the step."""

    flow_id: str
    run_id: str
    task: str
    status: str
    result: str | None = None
    child_session_key: str | None = None
    observed_at: int | None = None


class Applied(Struct):
    """applied: whether the observation changed anything."""

    applied: bool


@op("mirror_observer", by="flow_id")
class Apply(Op[Applied], kw_only=True):
    """Apply a published observation. As Observe, but each message is applied only once.

    published_at: microseconds by JetStream's clock; orders observations that have no observed_at.
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
    """Record that a message published to a flow was no valid observation."""

    flow_id: str
    reason: str


class StepsRead(Struct):
    """after: the position after the last item, or None at the end."""

    items: list[Step]
    after: int | None = None


@op("mirror_observer", by="flow_id", weight=24)
class Steps(Op[StepsRead], kw_only=True):
    """Return a slice of the steps, oldest first. bytes: the size of results after which the slice ends."""

    flow_id: str
    after: int
    limit: int
    bytes: int


class RuleKept(Struct, kw_only=True):
    """A rule or trigger, with its counters. body: JSON text."""

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
    """Store a rule. Rules are kept in partition 0 (their flows are not). kind: rule or trigger."""

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
    """Delete a rule. Return the rule as it was."""

    kind: str
    name: str


class Version(Struct):
    version: int


@op("mirror_observer")
class RulesVersion(Op[Version], kw_only=True):
    """Return how often rules have changed."""


@op("mirror_observer")
class RuleCount(Op[None], kw_only=True):
    """Add an observer's counts for a rule since its last report."""

    kind: str
    name: str
    seen: int
    applied: int
    dropped: int
    last_error: str | None = None


class NewFlow(Struct, kw_only=True):
    """The flow to create for a new key. state: JSON text."""

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
    """Return the flow of a rule's key, kept in the partition of `id`; if there is none, create it under that id."""

    rule: str
    key: str
    id: str
    create: NewFlow | None = None
