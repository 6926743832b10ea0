"""Who asks: in a secured deployment the subject of a request names its user, and NATS permissions pin the subject.

NATS permissions look at subjects only, and no header that a server could vouch for reaches the services. So each user
has subjects of its own, `<root>.v1.<verb>.as.<user>`, and may publish to no others. A worker that is bound to lanes
asks for work on `….as.<user>.<lane>+<lane>`: its permissions then pin the lanes too, and no service keeps a list.
"""

from typing import Any, Final, NamedTuple

from penstock.bus.identity import Identity
from penstock.errors import PenstockError, make
from penstock.ids import WORKER_OF
from penstock.verbs import VERBS, Verb

LANED: Final = frozenset({"work.next", "work.grant", "worker.register", "worker.heartbeat"})
"""The verbs whose subject also names a worker's lanes."""
_OF_WORKERS: Final = frozenset(
    name for name, verb in VERBS.items() if "worker_id" in verb.request.__struct_fields__
) - {"worker.drain"}


class Caller(NamedTuple):
    """The user that a request's subject names."""

    name: str
    lanes: frozenset[str] | None = None
    """The lanes that a worker is bound to; None: any."""


def subject(verb: Verb[Any, Any], root: str, identity: Identity | None) -> str:
    """Return the subject on which this identity asks; without one, the verb's own."""
    if identity is None:
        return verb.subject(root)
    lanes = f".{'+'.join(sorted(identity.lanes))}" if identity.lanes and verb.name in LANED else ""
    return f"{verb.subject(root)}.as.{identity.name}{lanes}"


def served(verb: Verb[Any, Any], root: str, secured: bool) -> str:
    """Return the subject that a service subscribes to."""
    return f"{verb.subject(root)}.as.>" if secured else verb.subject(root)


def caller_in(asked: str, served_on: str) -> Caller:
    """Read the caller in a request's subject, given the subject (`….as.>`) that the service subscribed to."""
    name, _, lanes = asked[len(served_on) - 1 :].partition(".")
    return Caller(name, frozenset(lanes.split("+")) if lanes else None)


def objection(verb: Verb[Any, Any], caller: Caller, request: Any) -> PenstockError | None:
    """Return the error for a request in the name of a worker, or for lanes, that are not the caller's; else None."""
    if verb.name in _OF_WORKERS and not request.worker_id.startswith(caller.name + WORKER_OF):
        text = f"the worker_id of user {caller.name!r} must begin with {caller.name + WORKER_OF!r}"
        return make("not_permitted", text, detail={"field": "worker_id"})
    if verb.name in LANED and caller.lanes is not None:
        foreign = sorted(set(request.lanes) - caller.lanes)
        if foreign:
            text = f"user {caller.name!r} is bound to the lanes {', '.join(sorted(caller.lanes))}"
            return make("not_permitted", text, detail={"field": "lanes", "lanes": foreign})
    return None
