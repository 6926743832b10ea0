"""The mirror-observer's operations: flows that somebody else runs, known by what is observed of their steps."""

from msgspec import Struct

from penstock.machine.op import Op, op
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
