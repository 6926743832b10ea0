"""What a kind of event is, and the type of its data, made from the names and types of the fields."""

from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

EventTable = dict[str, tuple[str, dict[str, Any]]]
"""The events of one entity: name -> what it says, and the fields of its data with their types; a name with `?` is of a
field that may be absent."""


class EventKind(NamedTuple):
    """One kind of event. `data` is the type of its data; without one, its data is null.

    Data of which no field is there is null too, as `nullable` says.
    """

    entity: str
    event: str
    meaning: str
    data: type[Struct] | None

    @property
    def nullable(self) -> bool:
        return self.data is None or all(field.default is UNSET for field in msgspec.structs.fields(self.data))


class Data(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Data of an event."""


class Omitted(Data):
    """What stands in place of data with which the event would be larger than a message of NATS may be."""

    omitted: str
    bytes: int


def kinds_of(tables: dict[str, EventTable]) -> dict[tuple[str, str], EventKind]:
    """Return every kind of event, by entity and name. tables: by entity."""
    return {
        (entity, event): EventKind(entity, event, meaning, _data(entity, event, fields))
        for entity, events in tables.items()
        for event, (meaning, fields) in events.items()
    }


def _data(entity: str, event: str, fields: dict[str, Any]) -> type[Struct] | None:
    if not fields:
        return None
    name = "".join(word.title() for word in f"{entity}_{event}_data".split("_"))
    rename = {"from_": "from"}
    required = [(_named(each), type_) for each, type_ in fields.items() if not each.endswith("?")]
    optional = [
        (_named(each[:-1]), type_ | UnsetType, UNSET) for each, type_ in fields.items() if each.endswith("?")
    ]
    return msgspec.defstruct(name, [*required, *optional], bases=(Data,), rename=rename, kw_only=True)


def _named(field: str) -> str:
    return "from_" if field == "from" else field
