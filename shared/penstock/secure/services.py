"""What the services themselves need of NATS and of Valkey: their subjects, streams, commands and keys."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from penstock.bus.callers import served, subject
from penstock.bus.identity import Identity, inbox_of
from penstock.bus.streams import AUDIT, EVENTS_IN, OBSERVATIONS, SIGNALS, STREAMS, stream_name
from penstock.runtime.wakes import AUDIENCE
from penstock.secure.roles import Subjects
from penstock.verbs import (
    AUDIT_RELAY,
    EXECUTION_CREATE,
    FLOW_CREATE,
    FLOW_START,
    LEASE_KEEPER,
    MIRROR_OBSERVER,
    SIGNAL_ROUTER,
    VERBS,
)

CONSUMES: Final = {SIGNAL_ROUTER: (SIGNALS, EVENTS_IN), MIRROR_OBSERVER: (OBSERVATIONS,)}
"""The streams that a service follows with the durable consumer of its own name."""
CALLS: Final = {MIRROR_OBSERVER: (EXECUTION_CREATE, FLOW_CREATE, FLOW_START)}
"""The verbs of other services that a service asks: triggers start work."""
PUBLISHES: Final = {
    LEASE_KEEPER: ("frame.*",),
    SIGNAL_ROUTER: ("dead.>",),
    MIRROR_OBSERVER: ("dead.>",),
    AUDIT_RELAY: ("dead.>", "audit.>"),
}


class Followed(NamedTuple):
    """A JetStream stream of somebody else's that mirror rules and triggers may follow."""

    stream: str
    subject: str


def subjects_of(
    service: Identity, root: str, subjects: Iterable[str] = (), streams: Iterable[Followed] = ()
) -> Subjects:
    """Return what a service may publish and subscribe to.

    `subjects`, `streams`: what the mirror-observer may follow for its rules and triggers.
    """
    name = service.name
    api = "$JS.API."
    publish = [f"{api}INFO", "_INBOX.>", f"{root}.hint.*", f"{root}.hint.alive.{name}", f"{root}.worker.>"]
    publish += [f"{root}.{each}" for each in PUBLISHES.get(name, ())]
    publish += [subject(verb, root, service) for verb in CALLS.get(name, ())]
    for stream in STREAMS:  # whichever service comes first makes the streams
        publish += [
            f"{api}STREAM.{what}.{stream_name(root, stream)}" for what in ("INFO", "CREATE", "UPDATE")
        ]
    for stream in CONSUMES.get(name, ()):
        publish += _consuming(stream_name(root, stream), name)
        publish.append(f"{api}STREAM.PURGE.{stream_name(root, stream)}")  # of what has been applied
        # Whether a stream stores messages shows in how it refuses a delete (penstock.bus.streams.write_error).
        publish.append(f"{api}STREAM.MSG.DELETE.{stream_name(root, stream)}")
    subscribe = [f"{inbox_of(name)}.>", f"{root}.hint.due", f"{root}.hint.alive.{name}"]
    subscribe += [f"{root}.hint.{topic}" for topic, audience in AUDIENCE.items() if audience == name]
    subscribe += [served(verb, root, True) for verb in VERBS.values() if verb.service == name]
    subscribe += [
        f"$SRV.{what}{rest}"
        for what in ("PING", "INFO", "STATS")
        for rest in ("", f".{root}-{name}", f".{root}-{name}.*")
    ]
    if name == AUDIT_RELAY:
        audit = stream_name(root, AUDIT)
        publish += [f"{api}STREAM.MSG.GET.{audit}", f"{api}DIRECT.GET.{audit}"]
    if name == MIRROR_OBSERVER:
        subscribe += subjects
        for stream, subject_kept in streams:
            publish += _consuming(stream, "*")
            publish.append(f"{api}CONSUMER.CREATE.{stream}.*.{subject_kept}")
            publish += [f"{api}STREAM.INFO.{stream}", f"{api}CONSUMER.DELETE.{stream}.*"]
    return Subjects(publish, subscribe)


def _consuming(stream: str, durable: str) -> list[str]:
    api = "$JS.API.CONSUMER."
    return [
        f"{api}CREATE.{stream}.{durable}",
        f"{api}INFO.{stream}.{durable}",
        f"{api}MSG.NEXT.{stream}.{durable}",
        f"$JS.ACK.{stream}.{durable}.>",
    ]
