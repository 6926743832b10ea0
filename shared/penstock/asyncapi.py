"""The contract as an AsyncAPI 3.0 document, made from the verbs and the types of their messages (`penstock asyncapi`).

Verbs are operations with a reply. What is published, pushed and told of are channels of their own: signals,
observations, events, what rules follow, dead letters, audit events, frames, what workers hear, hints between services.
"""

from functools import cache
from typing import Any, Final, get_args

import msgspec

from penstock import __version__
from penstock.messages.event_kinds import EventKind, Omitted
from penstock.messages.events import EVENTS
from penstock.messages.flows import PublishedObservation
from penstock.messages.frames import Frame
from penstock.messages.workers import Push
from penstock.schemas import REF, Schema, Schemas
from penstock.verbs import DESCRIPTIONS, VERBS, Verb

Part = dict[str, Any]

ABOUT: Final = """\
Durable execution as NATS services: docs/contract.md, as a document. Operations are named from the side of Penstock's
services: they *receive* requests and published messages, and *send* events, frames and what is pushed to workers.
Bodies are JSON, UTF-8. A verb's reply goes to the reply subject of its request; an error has the headers
Nats-Service-Error-Code and Nats-Service-Error. In a secured deployment a user asks on
`<subject of the verb>.as.<user>`, and workers hear on `<root>.worker.<user>.<worker_id>` (docs/security.md)."""
TOPICS: Final = (
    "ready", "done", "answered", "slot", "slot_check", "unblock", "unheld", "flow_ended", "flow_done", "ring", "rules",
    "audit", "due",
)  # fmt: skip
"""What hints are about (docs/architecture.md)."""
_ANY: Final[Schema] = {"description": "any JSON value, passed on byte for byte"}
_TEXT: Final[Schema] = {"type": "string"}
_MESSAGE_ID: Final[Part] = {
    "Nats-Msg-Id": {
        **_TEXT,
        "description": "names the message: publishing it again with the same id is harmless",
    }
}


@cache
def document(root: str = "penstock") -> bytes:
    """Return the document as JSON, for a deployment whose subjects begin with `root`."""
    datas = [kind.data for kind in EVENTS.values() if kind.data is not None]
    schemas = Schemas([PublishedObservation, Frame, Omitted, *get_args(Push), *datas])
    made = _Document(root, schemas)
    for verb in VERBS.values():
        made.verb(verb)
    made.published()
    made.audit()
    made.told()
    return msgspec.json.encode(_without_mappings(made.whole()))


class _Document:
    def __init__(self, root: str, schemas: Schemas) -> None:
        self._root = root
        self._schemas = schemas
        self._channels: Part = {}
        self._operations: Part = {}

    def whole(self) -> Part:
        schemas = {**self._schemas.components, "AuditEvent": _AUDIT_EVENT}
        return {
            "asyncapi": "3.0.0",
            "info": {
                "title": "Penstock",
                "version": __version__,
                "description": ABOUT,
                "license": {"name": "Apache-2.0"},
                "tags": [{"name": name, "description": text} for name, text in DESCRIPTIONS.items()],
            },
            "defaultContentType": "application/json",
            "servers": {"nats": {"host": "localhost:4222", "protocol": "nats"}},
            "channels": self._channels,
            "operations": self._operations,
            "components": {"schemas": schemas, "messageTraits": {"request": {"headers": _REQUEST_HEADERS}}},
        }

    def verb(self, verb: Verb[Any, Any]) -> None:
        """Add a verb: the channel of its requests, that of its replies, and the operation."""
        name, answers = verb.endpoint, f"{verb.endpoint}_reply"
        request: Part = {
            "payload": self._schemas.request(verb),
            "traits": [{"$ref": "#/components/messageTraits/request"}],
        }
        self._channel(name, f"v1.{verb.name}", {"request": request})
        self._channels[answers] = {
            "address": None,
            "messages": {
                "reply": {"payload": self._schemas.reply(verb)},
                "error": {"headers": _ERROR_HEADERS, "payload": {"$ref": REF + "Failed"}},
            },
        }
        self._operation(name, "receive", verb.name, f"answered by {verb.service}", verb.service)
        self._operations[name]["reply"] = {
            "address": {
                "location": "$message.header#/reply",
                "description": "the reply subject of the request",
            },
            "channel": _channel_ref(answers),
            "messages": [{"$ref": f"#/channels/{answers}/messages/{each}"} for each in ("reply", "error")],
        }

    def published(self) -> None:
        """Add what others publish and JetStream keeps until a service has applied it."""
        self._channel(
            "signals", "signal.{waitpoint_id}.{name}",
            {"signal": {"headers": _headers({
                "Penstock-Token": {**_TEXT, "description": "the waitpoint's token"},
                "Penstock-Source": {**_TEXT, "maxLength": 256, "description": "who signals, for conditions that count"},
                **_MESSAGE_ID,
            }, "Penstock-Token"), "payload": _ANY}},
            waitpoint_id="the waitpoint", name="the signal's name; it may have inner dots",
        )  # fmt: skip
        self._channel(
            "observations", "observation.{flow_id}",
            {"observation": {"headers": _headers(_MESSAGE_ID), "payload": self._schemas.of(PublishedObservation)}},
            flow_id="the mirrored flow",
        )  # fmt: skip
        self._channel(
            "events", "event.{topic}",
            {"event": {"headers": _headers({
                "Penstock-Correlation-Id": {**_TEXT, "minLength": 1, "maxLength": 256},
                **_MESSAGE_ID,
            }, "Penstock-Correlation-Id"), "payload": _ANY}},
            topic="what flows wait for; it may have inner dots",
        )  # fmt: skip
        # A rule or a trigger names the subject that it follows, so the channel has no address of its own.
        self._channels["followed"] = {
            "address": None,
            "description": "a subject of another system's, as a mirror rule or a trigger names it",
            "messages": {"message": {"headers": _headers(_MESSAGE_ID), "payload": _ANY}},
        }
        for name, text, service in (
            ("signals", "wakes what waits for it", "signal-router"),
            ("observations", "a step of a mirrored flow, as its runner saw it", "mirror-observer"),
            ("events", "wakes flows that wait for its topic and correlation id", "signal-router"),
            (
                "followed",
                "becomes an observation (mirror_rule.put), or starts work (trigger.put)",
                "mirror-observer",
            ),
        ):
            self._operation(name, "receive", name, text, service)

    def audit(self) -> None:
        """Add the audit trail: a message for each kind of event."""
        messages = {f"{kind.entity}_{kind.event}": self._event(kind) for kind in EVENTS.values()}
        self._channel(
            "audit", "audit.{namespace}.{entity}.{event}.{id}", messages,
            namespace="of the entity", entity="what has changed", event="what has happened", id="of the entity",
        )  # fmt: skip
        self._operation(
            "audit", "send", "audit events", "every change of state, once, hash-chained", "audit-relay"
        )

    def told(self) -> None:
        """Add what services tell workers, those who follow an execution, operators and one another."""
        self._channel(
            "workers", "worker.{worker_id}",
            {kind.__struct_config__.tag: {"payload": self._schemas.of(kind)} for kind in get_args(Push)},
            worker_id="the worker; in a secured deployment <user>.<worker_id>",
        )  # fmt: skip
        self._channel(
            "frames", "frame.{execution_id}", {"frame": {"payload": self._schemas.of(Frame)}},
            execution_id="whose output it is",
        )  # fmt: skip
        self._channel(
            "dead_letters", "dead.{subject}",
            {"letter": {"headers": _headers({
                "Penstock-Dead-Reason": _TEXT,
                "Penstock-Dead-Size": {**_TEXT, "description": "of the body, where that was too large to be kept"},
                "Penstock-Message-Id": {**_TEXT, "description": "the Nats-Msg-Id that the message had"},
            }, "Penstock-Dead-Reason"), "payload": {"description": "the body of the message, as it was"}}},
            subject="that of the message, without the root",
        )  # fmt: skip
        sealed: Part = {
            "contentType": "application/msgpack",
            "headers": _headers({"Penstock-Seal": _TEXT}, "Penstock-Seal"),
            "payload": {"type": "array", "description": "the hints of one moment"},
        }
        self._channel("hints", "hint.{topic}", {"hints": sealed}, topic="what they are about")
        self._channels["hints"]["parameters"]["topic"]["enum"] = list(TOPICS)
        self._channel(
            "alive", "hint.alive.{service}", {"alive": sealed}, service="whose instances tell one another"
        )
        self._channels["alive"]["parameters"]["service"]["enum"] = list(DESCRIPTIONS)
        for name, text in (
            ("workers", "asks a worker to stop a task, or to take no more"),
            ("frames", "output of a running execution, as it is stored (frame.read reads it later)"),
            ("dead_letters", "what could not be applied, and why; a stream keeps it"),
            ("hints", "wake-ups between services, signed; one may be lost. Not for others"),
            ("alive", "which instances of a service live, signed. Not for others"),
        ):
            self._operation(name, "send", name.replace("_", " "), text)

    def _channel(self, channel: str, subject: str, messages: Part, /, **parameters: str) -> None:
        self._channels[channel] = {"address": f"{self._root}.{subject}", "messages": messages}
        if parameters:
            self._channels[channel]["parameters"] = {
                each: {"description": text} for each, text in parameters.items()
            }

    def _operation(self, name: str, action: str, title: str, text: str, service: str | None = None) -> None:
        self._operations[name] = {
            "action": action,
            "channel": _channel_ref(name),
            "title": title,
            "summary": text,
        }
        if service is not None:
            self._operations[name]["tags"] = [{"name": service}]

    def _event(self, kind: EventKind) -> Part:
        forms: list[Schema] = (
            [] if kind.data is None else [self._schemas.of(kind.data), {"$ref": REF + "Omitted"}]
        )
        data = {"anyOf": [*forms, *([{"type": "null"}] if kind.nullable else [])]}
        named: Schema = {"entity": {"const": kind.entity}, "event": {"const": kind.event}, "data": data}
        return {
            "title": f"{kind.entity} {kind.event}",
            "summary": kind.meaning,
            "payload": {"allOf": [{"$ref": REF + "AuditEvent"}, {"type": "object", "properties": named}]},
        }


def _without_mappings(part: Any) -> Any:
    """Return the document with OpenAPI's discriminators, which are objects, as AsyncAPI's: names of a property."""
    if isinstance(part, list):
        return [_without_mappings(each) for each in part]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(part, dict):
        return part
    made: Part = {name: _without_mappings(each) for name, each in part.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(named := made.get("discriminator"), dict):
        made["discriminator"] = named["propertyName"]
    return made


def _channel_ref(name: str) -> Part:
    return {"$ref": f"#/channels/{name}"}


def _headers(properties: Part, *required: str) -> Schema:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


_REQUEST_HEADERS: Final = _headers(
    {
        "Penstock-Request-Id": {**_TEXT, "description": "names the request in logs"},
        "traceparent": {
            **_TEXT,
            "description": "of W3C Trace Context; executions that the request creates keep it",
        },
    }
)
_ERROR_HEADERS: Final = _headers(
    {
        "Nats-Service-Error-Code": {**_TEXT, "description": "the error's number"},
        "Nats-Service-Error": {**_TEXT, "description": "its message"},
    },
    "Nats-Service-Error-Code",
    "Nats-Service-Error",
)
_MAYBE_TEXT: Final[Schema] = {"type": ["string", "null"]}
_AUDIT_EVENT: Final[Schema] = {
    "type": "object",
    "required": [
        "event_id", "schema_version", "seq", "namespace", "entity", "id", "event", "at", "actor", "from", "to",
        "reason", "data", "prev_hash", "hash",
    ],
    "properties": {
        "event_id": {**_TEXT, "description": "<id>:<seq>"},
        "schema_version": {"const": 1},
        "seq": {"type": "integer", "description": "of the entity's events, from 1 without a gap"},
        "namespace": _TEXT,
        "entity": _TEXT,
        "id": _TEXT,
        "event": _TEXT,
        "at": {"type": "integer", "description": "milliseconds since the Unix epoch"},
        "actor": {**_MAYBE_TEXT, "description": "who did it"},
        "from": {**_MAYBE_TEXT, "description": "the state before a move"},
        "to": {**_MAYBE_TEXT, "description": "the state after it, or the first one"},
        "reason": _MAYBE_TEXT,
        "data": {"description": "what the event tells besides"},
        "prev_hash": {**_TEXT, "pattern": "^[0-9a-f]{64}$"},
        "hash": {**_TEXT, "pattern": "^[0-9a-f]{64}$"},
    },
}  # fmt: skip
