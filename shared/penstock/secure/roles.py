"""What each role may do: the table from which NATS permissions and the table in docs/security.md are made.

A role is for a login that a person or a program of yours has; what the services themselves need is in `services.py`.
"""

from typing import Final, Literal, NamedTuple, cast, get_args

from penstock.bus.callers import subject
from penstock.bus.identity import Identity, inbox_of
from penstock.bus.streams import AUDIT, DEAD, STREAMS, stream_name
from penstock.verbs import VERBS

Role = Literal[
    "worker",
    "submitter",
    "signal-publisher",
    "observation-publisher",
    "event-publisher",
    "publisher",
    "operator",
    "viewer",
    "auditor",
    "gateway",
]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

# What only the holder of a lease, or a worker about itself, asks.
_WORKERS_OWN: Final = frozenset(
    name
    for name in VERBS
    if name.startswith(("work.", "lease."))
    or name in ("waitpoint.create", "signal.resumed_by", "journal.open", "journal.append")
) - {"lease.revoke"} | {"worker.register", "worker.heartbeat"}  # fmt: skip

_READ: Final = frozenset(
    {
        "execution.get", "execution.list", "execution.history", "execution.wait", "execution.explain",
        "execution.query", "execution.versions", "journal.read",
        "execution.search", "lane.stats", "failure.groups", "limits.blocked", "kind.list",
        "bulk.get", "bulk.list",
        "flow.get", "flow.wait", "flow.list", "flow.graph", "flow.steps", "frame.read", "lane.list", "worker.list",
        "quota.get", "budget.get", "schedule.get", "schedule.list", "schedule.times", "waitpoint.get", "waitpoint.list",
        "signal.list",
        "mirror_rule.get", "mirror_rule.list", "trigger.get", "trigger.list", "cancel.backlog",
    }
)  # fmt: skip

# A submitter starts and steers work whose ids it knows. It has no list of other people's work.
_SUBMIT: Final = frozenset(
    {
        "execution.create", "execution.execute", "execution.get", "execution.history", "execution.wait",
        "execution.cancel", "frame.read", "execution.query", "journal.read",
        "flow.create", "flow.create_mirrored", "flow.start", "flow.get", "flow.wait", "flow.graph", "flow.steps",
        "flow.update_state", "flow.finish", "flow.fail", "flow.add_execution", "flow.add_dependency",
        "flow.set_join", "flow.set_waiting", "flow.resume", "flow.request_cancel", "flow.cancel",
        "schedule.create", "schedule.get", "schedule.times", "schedule.pause", "schedule.resume", "schedule.delete",
        "schedule.trigger", "schedule.update", "kind.list",
    }
)  # fmt: skip


class Permission(NamedTuple):
    """What one role may do. Subjects are without the root; `{user}` in one stands for the user's own name."""

    purpose: str
    verbs: frozenset[str] = frozenset()
    publish: tuple[str, ...] = ()
    """Further subjects that it may publish to."""
    subscribe: tuple[str, ...] = ()
    info: tuple[str, ...] = ()
    """Streams whose state it may see."""
    read: tuple[str, ...] = ()
    """Streams whose messages it may read."""
    discovery: bool = False
    """Whether it may ask which services run (`$SRV`), and about JetStream in general."""


PERMISSIONS: Final[dict[Role, Permission]] = {
    "worker": Permission(
        "takes work of its lanes and ends it; creates executions and reads those whose id it knows",
        _WORKERS_OWN | {"frame.read", "execution.create", "execution.get"},
        subscribe=("worker.{user}.*",),
    ),
    "submitter": Permission("starts executions, flows and schedules, and steers those whose id it knows", _SUBMIT),
    "signal-publisher": Permission(
        "sends signals to waitpoints whose token it has", frozenset({"signal.deliver"}), publish=("signal.>",)
    ),
    "observation-publisher": Permission(
        "tells of steps of mirrored flows", frozenset({"flow.observe"}), publish=("observation.>",)
    ),
    "event-publisher": Permission("publishes events that flows wait for", publish=("event.>",)),
    "publisher": Permission("publishes messages of its own subjects, which mirror rules and triggers may follow"),
    "operator": Permission(
        "sees everything but the audit stream, and changes everything but what workers hold",
        frozenset(VERBS) - _WORKERS_OWN,
        publish=("signal.>", "observation.>", "event.>"),  # dead letters, again
        subscribe=("audit.>", "frame.*"),
        info=STREAMS,
        read=(DEAD,),
        discovery=True,
    ),
    "viewer": Permission(
        "sees what operators see, and changes nothing",
        _READ,
        subscribe=("audit.>", "frame.*"),
        info=STREAMS,
        discovery=True,
    ),
    "auditor": Permission(
        "reads the audit trail, live and stored", subscribe=("audit.>",), info=(AUDIT,), read=(AUDIT,)
    ),
    # It hears nothing that is pushed to workers: those over HTTP learn of a cancellation from lease.renew.
    "gateway": Permission(
        "asks for the HTTP gateway's bearer tokens, each of which has another role",
        frozenset(VERBS),
        subscribe=("audit.>",),
        info=(AUDIT,),
        read=(AUDIT,),
    ),
}  # fmt: skip


class Subjects(NamedTuple):
    """The subjects that one NATS user may publish to and subscribe to; it may use no others."""

    publish: list[str]
    subscribe: list[str]


def subjects_of(user: Identity, root: str) -> Subjects:
    """Return what a user may publish and subscribe to."""
    allowed = PERMISSIONS[cast("Role", user.role)]
    publish = [subject(VERBS[name], root, user) for name in sorted(allowed.verbs)]
    publish += [f"{root}.{each}" for each in allowed.publish]
    publish += user.subjects
    publish += [f"$JS.API.STREAM.INFO.{stream_name(root, stream)}" for stream in allowed.info]
    publish += [f"$JS.API.DIRECT.GET.{stream_name(root, stream)}" for stream in allowed.read]
    if allowed.discovery:
        publish += [
            "$JS.API.INFO",
            "$SRV.PING",
            "$SRV.PING.>",
            "$SRV.INFO",
            "$SRV.INFO.>",
            "$SRV.STATS",
            "$SRV.STATS.>",
        ]
    subscribe = [f"{inbox_of(user.name)}.>"]
    subscribe += [f"{root}.{each.format(user=user.name)}" for each in allowed.subscribe]
    return Subjects(publish, subscribe)
