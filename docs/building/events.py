"""The events of the audit trail, with the fields of their data."""

from typing import Any

import msgspec

from building.schemas import fields
from penstock.messages.event_kinds import EventKind
from penstock.messages.events import EVENTS

ABOUT = """\
# Events

Every change of state leaves one event, in the same atomic step: live on
`<root>.audit.<namespace>.<entity>.<event>.<id>`, and for good in the audit trail. [The
contract](../contract.md#flows-and-the-audit-trail) says what all events have in common; this page has what each kind
says, and its `data`. Data without any field is null. Data with which an event would be larger than a message may be
is replaced by `{"omitted": "too large for a message", "bytes": …}`.

`penstock audit tail` follows the trail, and so do `client.events()` and `GET /v1/events` of the
[gateway](../gateway.md).
"""


def page() -> str:
    parts = [ABOUT]
    for entity in dict.fromkeys(kind.entity for kind in EVENTS.values()):
        parts.append(f"## {entity.replace('_', ' ').capitalize()}")
        parts += [_event(kind) for kind in EVENTS.values() if kind.entity == entity]
    return "\n\n".join(parts) + "\n"


def _event(kind: EventKind) -> str:
    head = f"### {kind.entity} {kind.event} {{ #{kind.entity}-{kind.event} }}"
    text = f"{kind.meaning[0].upper()}{kind.meaning[1:]}."
    if kind.data is None:
        return f"{head}\n\n{text}"
    _, components = msgspec.json.schema_components([kind.data])
    schema: dict[str, Any] = components[kind.data.__name__]
    return f"{head}\n\n{text}\n\n{fields(schema)}"
